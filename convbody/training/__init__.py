"""Training that knows no task: ``train(cfg, model, batches, losses=...)`` and what it is made of."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convbody.training.checkpoint import CheckpointError, read_checkpoint
    from convbody.training.loop import TrainResult, train
    from convbody.training.step import NonFiniteLossError

_HOMES = {
    "CheckpointError": "checkpoint",
    "read_checkpoint": "checkpoint",
    "NonFiniteLossError": "step",
    "TrainResult": "loop",
    "train": "loop",
}

__all__ = ["CheckpointError", "NonFiniteLossError", "TrainResult", "read_checkpoint", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
