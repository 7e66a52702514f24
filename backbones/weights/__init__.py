"""Loading weight files into a backbone or a detector, with a report of what fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backbones.weights.deferred import deferred_init
    from backbones.weights.load import load_weights
    from backbones.weights.report import LoadReport

__all__ = ["LoadReport", "deferred_init", "load_weights"]


def __getattr__(name: str) -> Any:
    if name == "load_weights":
        from backbones.weights.load import load_weights

        return load_weights
    if name == "deferred_init":
        from backbones.weights.deferred import deferred_init

        return deferred_init
    if name == "LoadReport":
        from backbones.weights.report import LoadReport

        return LoadReport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
