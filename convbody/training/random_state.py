"""Every random generator of this process, as one value that goes into a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed the generators of python, numpy and torch (CPU and GPU)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The state of all generators, made only of types that weights-only unpickling accepts."""
    legacy: Any = np.random.get_state()  # its stub allows types that only other arguments give
    algorithm, keys, *rest = legacy
    return {
        "python": random.getstate(),
        "numpy": (algorithm, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put all generators back to a state taken by ``random_state``."""
    random.setstate(python_state(state))
    np.random.set_state(numpy_state(state))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def python_state(state: Mapping[str, Any]) -> tuple[Any, ...]:
    """The part of a state that python's generators take."""
    version, internal, gauss = state["python"]
    return version, tuple(internal), gauss


def numpy_state(state: Mapping[str, Any]) -> tuple[Any, ...]:
    """The part of a state that numpy's generators take."""
    algorithm, keys, *rest = state["numpy"]
    return (algorithm, keys.numpy().astype(np.uint32), *rest)


@contextmanager
def untouched_random_state() -> Iterator[None]:
    """What happens inside leaves no trace in the generators."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
