"""COCO evaluation of a detector: run it over a test set, score what it finds, keep what the report needs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convbody.detection.evaluation.checkpoint import evaluate_checkpoint
    from convbody.detection.evaluation.result import EvaluationResult
    from convbody.detection.evaluation.run import evaluate, evaluate_all, flat_metrics

_HOMES = {
    "evaluate": "run",
    "evaluate_all": "run",
    "evaluate_checkpoint": "checkpoint",
    "flat_metrics": "run",
    "EvaluationResult": "result",
}
__all__ = ["EvaluationResult", "evaluate", "evaluate_all", "evaluate_checkpoint", "flat_metrics"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
