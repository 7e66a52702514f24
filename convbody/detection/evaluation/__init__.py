"""COCO evaluation of a detector: run it over a test set, score what it finds, keep what the report needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convbody.detection.evaluation.evaluate import evaluate, evaluate_all, flat_metrics
    from convbody.detection.evaluation.result import EvaluationResult

_HOMES = {
    "evaluate": "evaluate",
    "evaluate_all": "evaluate",
    "flat_metrics": "evaluate",
    "EvaluationResult": "result",
}
__all__ = ["EvaluationResult", "evaluate", "evaluate_all", "flat_metrics"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
