"""Reading a weight file: from a path to named tensors, and what they expect of a config."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from backbones.weights.contract import WeightContract
from backbones.weights.dictionaries import choose, plain_names
from backbones.weights.known import known_contract
from backbones.weights.pickle_file import PickledArray, read_pickle
from backbones.weights.source import KEY, address, local_file, place, shown
from backbones.weights.torch_file import is_torch_file, read_torch
from registry import Config, ConfigError
from registry.errors import in_one_line

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl", ".safetensors")
#: Where a file of ours says what its weights expect: a key of a checkpoint, or of safetensors' metadata.
CONTRACT = "contract"
#: Tensors may share what the file holds, but claim no more bytes than this, or than so many times its size.
_MOST_CLAIMED, _MOST_SHARED = 1 << 30, 16

#: Names of what an output stands for; None where it stands for nothing.
Names = tuple[str | None, ...]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightFile:
    """What a weight file holds.

    Attributes:
        tensors: by name, out of a checkpoint's dictionaries and without the prefixes of wrappers.
        contract: what the file says of itself, else what its address or its names tell; None: not known.
        notes: lists of names that it has beside its tensors.
    """

    tensors: dict[str, Tensor]
    contract: WeightContract | None
    notes: Mapping[str, Names] = field(default_factory=dict)


def read_weights(path: str | Path, cfg: Config | None = None) -> WeightFile:
    """The tensors in a file and their contract.

    ``path`` may be an address or a name as ``source.local_file`` takes them, and end in ``#NAME`` of the
    dictionary to read; else that one is read which comes first in ``dictionaries.WRAPPERS``, and the log
    names the others. Nothing in the file is run. ``cfg`` only tells errors where the path was set.

    Raises:
        ConfigError: no such file or none to be fetched, another kind of file, one that asks for code to be
            run, or one without named tensors.
    """
    weight = address(path)
    name = shown(path)
    meant = place(weight, cfg)
    file = local_file(weight, cfg)
    if file.suffix not in SUFFIXES:
        kinds = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise ConfigError(f"weights are read from {kinds} files, not from {name}", KEY, cfg)
    try:
        content = _content(file)
        record = dict.get(content, CONTRACT) if isinstance(content, dict) else None
        own = WeightContract.from_record(record) if isinstance(record, Mapping) else None
        chosen = choose(content, meant.dictionary)
        state = _tensors(chosen.tensors, file.stat().st_size)
    except LookupError as error:
        raise ConfigError(f"{name} {error.args[0]}", KEY, cfg) from error
    except (pickle.UnpicklingError, OSError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{name} cannot be read as a weight file: {reason}", KEY, cfg) from error
    if chosen.others:
        logger.info(
            "%s: the weights under %s are taken; there are others under %s, taken with #NAME after the file",
            name,
            chosen.path,
            ", ".join(chosen.others),
        )
    return WeightFile(state, own or known_contract(meant.where, state), notes_of(content))


def read_tensors(path: str | Path, cfg: Config | None = None) -> dict[str, Tensor]:
    """The tensors alone of what ``read_weights`` gives, which see."""
    return read_weights(path, cfg).tensors


def notes_of(content: Any) -> dict[str, Names]:
    """The lists of names in the content of a file."""
    items = dict.items(content) if isinstance(content, dict) else ()
    return {name: tuple(value) for name, value in items if isinstance(name, str) and _are_names(value)}


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str | None) for each in value)


def counts(name: str) -> bool:
    """Whether a tensor is part of the network: batch counters are not."""
    return not name.endswith("num_batches_tracked")


def _content(file: Path) -> Any:
    """What a file holds, read by what it is rather than by its name.

    Raises:
        pickle.UnpicklingError, OSError: it cannot be read; the message says why.
    """
    if file.suffix == ".safetensors":
        return _safetensors_content(file)
    return read_torch(file) if is_torch_file(file) else read_pickle(file)


def _safetensors_content(file: Path) -> dict[str, Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            said = opened.metadata() or {}
        record = {
            name: json.loads(text) if name == CONTRACT else _json_or_text(text) for name, text in said.items()
        }
        return {**record, **load_file(file)}
    except OSError:
        raise
    except Exception as error:  # a broken header can make the reader fail in any way
        raise pickle.UnpicklingError(in_one_line(error)) from error


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _tensors(held: Mapping[str, Tensor | PickledArray], size: int) -> dict[str, Tensor]:
    """The tensors by their names without wrappers, out of a file of ``size`` bytes.

    Raises:
        pickle.UnpicklingError: one that is no plain array of numbers, or more of them than the file can hold.
    """
    for name, value in held.items():
        if reason := _odd(value):
            raise pickle.UnpicklingError(f"{name} is {reason}, and weights are plain arrays of numbers")
    claimed = sum(max(value.nbytes, *value.shape, 0) for value in held.values())
    if claimed > max(_MOST_CLAIMED, _MOST_SHARED * size):
        raise pickle.UnpicklingError(f"its tensors claim {claimed} bytes, and the file has {size}")
    tensors = {plain: held[name] for plain, name in plain_names(held).items()}
    return {
        name: value.tensor() if isinstance(value, PickledArray) else value.detach()
        for name, value in tensors.items()
    }


def _odd(tensor: Tensor | PickledArray) -> str:
    if isinstance(tensor, PickledArray):
        return ""
    if tensor.is_quantized:
        return "quantized"
    if tensor.layout is not torch.strided or tensor.is_nested:
        return "sparse or nested"
    return "" if tensor.device.type == "cpu" else "without data"
