"""From one naming into another, without a model: what ``tools/convert_weights.py`` does."""

from __future__ import annotations

import json
import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from backbones.weights.contract import WeightContract
from backbones.weights.lineages import LINEAGES, OURS
from backbones.weights.read import CONTRACT, Names, counts
from backbones.weights.report import grouped
from backbones.weights.rules import Lineage, Renamed, State, changed
from registry import ConvbodyError
from registry.errors import in_one_line, nearest_phrase

SUFFIXES = (".pth", ".safetensors", ".pkl")

_BY_NAME = {lineage.name: lineage for lineage in LINEAGES}
_ANY_NAME = "{rest}"
#: Whose programs look for the tensors of a .pth under "model".
_UNDER_MODEL = ("convbody", "maskrcnn-benchmark", "detectron2")


@dataclass(frozen=True)
class Converted:
    """Tensors in another naming.

    Attributes:
        state: the tensors.
        source: the lineage whose names they had.
        left_out: names that stand for nothing in ours, such as the classifier of an ImageNet file.
    """

    state: dict[str, Tensor]
    source: str
    left_out: tuple[str, ...]


def convert(state: State, to: str, source: str | None = None) -> Converted:
    """All tensors of a detector, a backbone or a body under the names that the lineage ``to`` has for them.

    ``source`` is the lineage of ``state``; without it, the one recognised by the names. Tensors are changed
    only where the same numbers mean something else there; there and back, all but the box outputs of
    RetinaNet are what they were to the last bit. A part of a detector stays one, where the files of that
    lineage may be such a part.

    Raises:
        ConvbodyError: no such lineage, weights that it has no names for, or none that are known at all.
    """
    target = _lineage(to)
    lineage = _lineage(source) if source else recognised(state)
    ours, left_out, part = _to_ours(state, lineage)
    if not ours:
        raise ConvbodyError(f"none of the {len(state)} tensors has a name of {lineage.name}")
    renamed = target.to_theirs(ours)
    nameless = [name for name in ours if name not in renamed and counts(name)]
    if nameless:
        raise ConvbodyError(
            f"{target.name} has no name for {len(nameless)} of {len(ours)} tensors: "
            f"{', '.join(grouped(nameless))}"
        )
    theirs = {new.name: changed(ours[name], new) for name, new in renamed.items()}
    if target.finish:
        theirs = dict(target.finish(theirs))
    return Converted(_shortened(theirs, target) if part else theirs, lineage.name, left_out)


def recognised(names: Collection[str]) -> Lineage:
    """The lineage of a file: among those whose marks it has, the one that knows most names; else ours."""
    marked = [each for each in LINEAGES if _ANY_NAME not in each.marks and each.marked(names)]
    return max(marked, key=lambda lineage: len(_longest(names, lineage)[1]), default=OURS)


def write_tensors(
    state: Mapping[str, Tensor],
    file: Path,
    lineage: str,
    contract: WeightContract | None = None,
    notes: Mapping[str, Names] = MappingProxyType({}),
) -> None:
    """Writes a ``.pth``, ``.safetensors`` or ``.pkl`` file as programs of the lineage read it.

    ``contract``, what the weights expect of a config, and ``notes``, lists of names, are written with them
    where there is a place for it: everywhere but in a ``.pth`` of a lineage that wants its tensors bare.

    Raises:
        ConvbodyError: another suffix, or a file that cannot be written.
    """
    if file.suffix not in SUFFIXES:
        raise ConvbodyError(f"weights are written to {', '.join(SUFFIXES)} files, not to {file}")
    # Tensors that share memory are written one by one.
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    record: dict[str, Any] = {name: list(names) for name, names in notes.items()}
    record |= {CONTRACT: contract.record()} if contract else {}
    try:
        if file.suffix == ".pth":
            torch.save({"model": tensors, **record} if lineage in _UNDER_MODEL else tensors, file)
        elif file.suffix == ".safetensors":
            save_file(tensors, file, {name: json.dumps(value) for name, value in record.items()})
        else:
            file.write_bytes(_pickled(tensors, lineage, record))
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors wrap a failed write
        reason = getattr(error, "strerror", None) or in_one_line(error)
        raise ConvbodyError(f"cannot write {file}: {reason}") from error


def _pickled(state: Mapping[str, Tensor], lineage: str, record: Mapping[str, Any]) -> bytes:
    """Arrays in the wrapping by which detectron2 tells its own files from Detectron's."""
    arrays = {
        name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        for name, tensor in state.items()
    }
    content: dict[str, Any] = {"blobs": arrays, **record}
    if lineage == "detectron2":
        content = {"model": arrays, "__author__": OURS.name, **record}
    # numpy 2 writes where its functions are now; older ones, as these programs need, only know the old place.
    return pickle.dumps(content, protocol=3).replace(
        b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    )


def _lineage(name: str) -> Lineage:
    if name not in _BY_NAME:
        raise ConvbodyError(
            f"no lineage {name}{nearest_phrase(name, _BY_NAME)}; known: {', '.join(_BY_NAME)}"
        )
    return _BY_NAME[name]


def _to_ours(state: State, lineage: Lineage) -> tuple[dict[str, Tensor], tuple[str, ...], bool]:
    """(tensors by name in a whole detector of ours, names left out, whether they are only part of one)."""
    held = {name: tensor for name, tensor in state.items() if not lineage.ignores(name)}
    complete = lineage.complete(held) if lineage.complete else held
    if lineage is OURS:
        prefix = _own_prefix(complete)
        renamed = lineage.to_ours(complete, prefix)
    else:
        prefix, renamed = _longest(complete, lineage)
    ours = {new.name: changed(complete[name], new) for name, new in renamed.items()}
    return ours, tuple(name for name in complete if name not in renamed and counts(name)), prefix != ""


def _longest(names: Collection[str], lineage: Lineage) -> tuple[str, dict[str, Renamed]]:
    """The prefix under which the lineage knows most names, and ours for them."""
    readings = [(prefix, lineage.to_ours(names, prefix)) for prefix in lineage.prefixes]
    return max(readings, key=lambda reading: len(reading[1]))


def _own_prefix(names: Collection[str]) -> str:
    """What names of ours lack that are those of a backbone or of a body."""
    if any(name.startswith("backbone.") for name in names):
        return ""
    return "backbone." if any(name.startswith("body.") for name in names) else "backbone.body."


def _shortened(state: dict[str, Tensor], lineage: Lineage) -> dict[str, Tensor]:
    """Names without the longest prefix that files of the lineage may leave out, and that all of them have."""
    for prefix in sorted(lineage.prefixes, key=len, reverse=True):
        if all(name.startswith(prefix) for name in state):
            return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state
