"""Reading a weight file: from a path to named tensors."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from backbones.weights.pickle_file import read_pickle
from backbones.weights.source import KEY, local_file
from registry import Config, ConfigError

SUFFIXES = (".pth", ".pt", ".pkl", ".safetensors")


def read_tensors(path: str, cfg: Config | None = None) -> dict[str, Tensor]:
    """The tensors in a file, by name, out of a checkpoint's wrapping and without data-parallel prefixes.

    ``path`` may be an address or a name as ``source.local_file`` takes them. Pickles are read without
    running what they say.

    Raises:
        ConfigError: no such file or none to be fetched, another kind of file, or one without named tensors.
    """
    kinds = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    file = local_file(path, cfg)
    if not file.is_file():
        raise ConfigError(f"no such weight file: {path}", KEY, cfg)
    if file.suffix not in SUFFIXES:
        raise ConfigError(f"weights are read from {kinds} files, not from {path}", KEY, cfg)
    try:
        content = _content(file)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"{path} cannot be read as a weight file: {reason}", KEY, cfg) from error
    state = {
        _without_wrapper(name): value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not state:
        raise ConfigError(f"{path} holds no named tensors", KEY, cfg)
    return state


def counts(name: str) -> bool:
    """Whether a tensor is part of the network: batch counters are not."""
    return not name.endswith("num_batches_tracked")


def _content(file: Path) -> Mapping[Any, Any]:
    if file.suffix == ".safetensors":
        return load_file(file)
    content = (
        read_pickle(file)
        if file.suffix == ".pkl"
        else torch.load(file, map_location="cpu", weights_only=True)
    )
    for wrapper in ("model", "state_dict", "blobs"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    return content if isinstance(content, Mapping) else {}


def _without_wrapper(name: str) -> str:
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name
