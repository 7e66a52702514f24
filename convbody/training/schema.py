"""What the files of a run hold, as types. A file is held to them when it is read, before anything uses it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import torch
import yaml
from torch import Tensor

from convbody.training.random_state import numpy_state, python_state

#: No config has nearly as many keys; a text of nested aliases may have more than memory holds.
_MOST_KEYS = 100_000
#: The one in C where it is there: a config has hundreds of lines, and --resume reads several.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NUMPY_STATE_WORDS = 624
_CUDA_STATE_BYTES = 16


class Weights(msgspec.Struct, kw_only=True):
    """Any file of a run: weights by name, and the averaged ones where there are some."""

    model: dict[str, Tensor]
    ema: dict[str, Tensor] | None = None
    iteration: int | None = None


class RandomState(msgspec.Struct, kw_only=True):
    """The generators of one process, as ``random_state`` gives them."""

    python: tuple[int, tuple[int, ...], float | None]
    numpy: tuple[str, Tensor, int, int, float]
    torch: Tensor
    cuda: Tensor | None

    def __post_init__(self) -> None:
        # numpy takes words of any number and a position outside of them, and reads the memory there.
        _, words, position, *_ = self.numpy
        if words.shape != (_NUMPY_STATE_WORDS,) or not 0 <= position <= _NUMPY_STATE_WORDS:
            raise ValueError("no state of numpy's generator")
        if self.cuda is not None and (self.cuda.dtype, self.cuda.numel()) != (torch.uint8, _CUDA_STATE_BYTES):
            raise ValueError("no state of a GPU's generator")
        state = msgspec.structs.asdict(self)
        try:
            random.Random().setstate(python_state(state))
            np.random.RandomState().set_state(numpy_state(state))
            torch.Generator().set_state(self.torch)
        except (OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"no state of a random generator: {error}") from None


class ParameterGroup(msgspec.Struct, kw_only=True):
    """The parameters of one group by number, and by name where the optimiser has names."""

    params: list[int]
    names: list[str] | None = None


class OptimizerState(msgspec.Struct, kw_only=True):
    """What ``Optimizer.state_dict`` gives."""

    state: dict[int, dict[str, Tensor | None]]
    param_groups: list[ParameterGroup]


class Scaler(msgspec.Struct, kw_only=True, rename={"growth_tracker": "_growth_tracker"}):
    """What ``GradScaler.state_dict`` gives where the loss is scaled."""

    scale: float
    growth_factor: float
    backoff_factor: float
    growth_interval: int
    growth_tracker: int

    def __post_init__(self) -> None:
        if not 0 < self.backoff_factor < 1 < self.growth_factor < float("inf"):
            raise ValueError("a loss scale shrinks by its backoff factor and grows by its growth factor")
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"the loss cannot be scaled by {self.scale}")


class Resumable(Weights, kw_only=True):
    """What every file holds that a run goes on from."""

    iteration: int
    random: list[RandomState]
    config: str

    def __post_init__(self) -> None:
        if self.iteration < 0:
            raise ValueError(f"there is no iteration {self.iteration}")
        if not self.random:
            raise ValueError("it has the random state of no process")
        config_keys(self.config)


class TrainingCheckpoint(Resumable, kw_only=True):
    """What ``TrainingState.capture`` gives."""

    ema: dict[str, Tensor] | None
    optimizer: OptimizerState
    optimizer_name: str
    scaler: dict[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scaler:
            msgspec.convert(self.scaler, Scaler)


def config_keys(text: str) -> dict[str, Any]:
    """The values of a dumped config by dotted key. Raises ValueError for a text that is none."""
    try:
        tree = yaml.load(text, Loader=_LOADER)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"its config is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, Mapping):
        raise ValueError("its config is no mapping")
    flat: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", tree)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(f"{key}.{name}" if key else f"{name}", child) for name, child in value.items()]
        else:
            flat[key] = value
        if len(flat) + len(waiting) > _MOST_KEYS:
            raise ValueError(f"its config has more than {_MOST_KEYS} keys")
    return flat
