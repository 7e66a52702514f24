"""Reading a weight file: from a path to named tensors, and what they expect of a config."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from backbones.weights.contract import WeightContract
from backbones.weights.known import known_contract
from backbones.weights.pickle_file import read_pickle
from backbones.weights.source import KEY, address, local_file
from registry import Config, ConfigError

SUFFIXES = (".pth", ".pt", ".pkl", ".safetensors")
#: Where a file of ours says what its weights expect: a key of a checkpoint, or of safetensors' metadata.
CONTRACT = "contract"

#: Names of what an output stands for; None where it stands for nothing.
Names = tuple[str | None, ...]


@dataclass(frozen=True)
class WeightFile:
    """What a weight file holds.

    Attributes:
        tensors: by name, out of a checkpoint's wrapping and without data-parallel prefixes.
        contract: what the file says of itself, else what its address or its names tell; None: not known.
        notes: lists of names that it has beside its tensors.
    """

    tensors: dict[str, Tensor]
    contract: WeightContract | None
    notes: Mapping[str, Names] = field(default_factory=dict)


def read_weights(path: str | Path, cfg: Config | None = None) -> WeightFile:
    """The tensors in a file and their contract.

    ``path`` may be an address or a name as ``source.local_file`` takes them. Nothing in the file is run.
    ``cfg`` only tells errors where the path was set.

    Raises:
        ConfigError: no such file or none to be fetched, another kind of file, one that asks for code to be
            run, or one without named tensors.
    """
    weight = address(path)
    kinds = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    file = local_file(weight, cfg)
    if not file.is_file():
        raise ConfigError(f"no such weight file: {weight}", KEY, cfg)
    if file.suffix not in SUFFIXES:
        raise ConfigError(f"weights are read from {kinds} files, not from {weight}", KEY, cfg)
    try:
        content = _content(file)
        record = content.get(CONTRACT)
        own = WeightContract.from_record(record) if isinstance(record, Mapping) else None
    except (pickle.UnpicklingError, SafetensorError, OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"{weight} cannot be read as a weight file: {reason}", KEY, cfg) from error
    state = {
        _without_wrapper(name): value
        for name, value in _unwrapped(content).items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not state:
        raise ConfigError(f"{weight} holds no named tensors", KEY, cfg)
    return WeightFile(state, own or known_contract(weight, state), notes_of(content))


def read_tensors(path: str | Path, cfg: Config | None = None) -> dict[str, Tensor]:
    """The tensors alone of what ``read_weights`` gives, which see."""
    return read_weights(path, cfg).tensors


def notes_of(content: Mapping[Any, Any]) -> dict[str, Names]:
    """The lists of names in the content of a file."""
    return {name: tuple(value) for name, value in content.items() if _are_names(value)}


def counts(name: str) -> bool:
    """Whether a tensor is part of the network: batch counters are not."""
    return not name.endswith("num_batches_tracked")


def _content(file: Path) -> Mapping[Any, Any]:
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            record = {name: _json_or_text(value) for name, value in (opened.metadata() or {}).items()}
        return {**record, **load_file(file)}
    content = read_pickle(file) if file.suffix == ".pkl" else _torch_content(file)
    return content if isinstance(content, Mapping) else {}


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str | None) for each in value)


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _torch_content(file: Path) -> Any:
    """What torch saved, unpickled without running any of it.

    Raises:
        pickle.UnpicklingError: it cannot be; the message says why.
    """
    archive = zipfile.is_zipfile(file)
    if archive:
        with zipfile.ZipFile(file) as parts:
            # torch stores its parts as they are; compressed, a small file could fill the memory.
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):
                raise pickle.UnpicklingError("it is a compressed archive, which torch never writes")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a broken file can make the reader fail in any way
        asked = _asked_for(file) if archive else []
        raise pickle.UnpicklingError(_reason(asked, error)) from error


def _asked_for(file: Path) -> list[str]:
    """The classes and functions, beyond those of tensors and containers, that an archive of torch names."""
    try:
        return sorted(get_unsafe_globals_in_checkpoint(file))
    except Exception:  # the file is broken, and the first error tells how
        return []


def _reason(asked: list[str], error: Exception) -> str:
    if any(name.startswith("torch.nn.modules.") for name in asked):
        return (
            "it holds a whole model, which only running its code could read; where that code is, load it and "
            "save its tensors alone: torch.save(model.state_dict(), path)"
        )
    if asked:
        return f"it asks for {', '.join(asked[:3])}, and may hold tensors and plain containers only"
    return str(error) or type(error).__name__


def _unwrapped(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    for wrapper in ("model", "state_dict", "blobs"):
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    return content


def _without_wrapper(name: str) -> str:
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name
