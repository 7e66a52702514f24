"""A record as a folder: ``trace.json`` says what was seen, ``tensors.safetensors`` holds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from convbody.compare.record import Batch, Place, Record, Seen
from registry import ConvbodyError

FORMAT = "convbody trace 1"

_JSON, _TENSORS = "trace.json", "tensors.safetensors"
_BATCH = "batch/"
_LOSSES = ("projection", "cross entropy", "detector")


def write_trace(record: Record, folder: Path) -> None:
    """Writes ``record`` into ``folder``, which is made. Raises ConvbodyError where that is not possible."""
    tensors = {f"{_BATCH}{name}": tensor.contiguous() for name, tensor in record.batch.items()}
    places = []
    for place, seen in record.places.items():
        key = "/".join((place.phase, place.name, place.what, str(place.call)))
        tensors[key] = seen.value.contiguous()
        rounding = seen.rounding if seen.rounding is not None and seen.rounding < float("inf") else None
        shape = list(seen.value.shape)
        described = {"shape": shape, "dtype": str(seen.value.dtype).removeprefix("torch.")}
        places.append({**vars(place), "tensor": key, **described, "rounding": rounding})
    content = {
        "format": FORMAT,
        "label": record.label,
        "loss": record.loss,
        "places": places,
        "modules": record.modules,
        "optimizer": record.groups,
        "facts": record.facts,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / _TENSORS)
        (folder / _JSON).write_text(json.dumps(content, indent=1), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise ConvbodyError(f"cannot write the trace: {error}") from error


def read_trace(folder: Path) -> Record:
    """The record in ``folder``.

    Raises:
        ConvbodyError: a file is missing or damaged, of another format, or does not hold what it says.
    """
    for name in (_JSON, _TENSORS):
        if not (folder / name).is_file():
            raise ConvbodyError(f"no trace in {folder}: there is no {name}")
    try:
        content = json.loads((folder / _JSON).read_text(encoding="utf-8"))
        tensors = load_file(folder / _TENSORS)
    except (ValueError, SafetensorError) as error:
        raise ConvbodyError(f"the trace in {folder} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConvbodyError(f"{folder / _JSON} is not of the format {FORMAT!r}")
    if content.get("loss") not in _LOSSES:
        raise ConvbodyError(f'{folder / _JSON}: "loss" has to be one of {", ".join(_LOSSES)}')
    batch: Batch = {
        name.removeprefix(_BATCH): tensor for name, tensor in tensors.items() if name.startswith(_BATCH)
    }
    if "images" not in batch:
        raise ConvbodyError(f"the trace in {folder} has no tensor {_BATCH}images")
    record = Record(
        f"trace {folder}",
        content["loss"],
        batch,
        modules=content.get("modules", {}),
        groups=content.get("optimizer", {}),
        facts=content.get("facts", {}),
    )
    for entry in content.get("places", []):
        place, seen = _seen(entry, tensors, folder)
        record.places[place] = seen
    return record


def _seen(entry: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> tuple[Place, Seen]:
    try:
        place = Place(entry["phase"], entry["name"], entry.get("what", "value"), entry.get("call", 0))
        tensor, shape = tensors[entry["tensor"]], tuple(entry["shape"])
    except KeyError as error:
        raise ConvbodyError(f"the trace in {folder} lacks {error} for the place {entry}") from error
    if tuple(tensor.shape) != shape:
        raise ConvbodyError(
            f"the trace in {folder} says that {place} has shape {shape}; its tensor has {tuple(tensor.shape)}"
        )
    return place, Seen(tensor.to(torch.float32), entry.get("rounding"))
