"""Detectors on any backbone: ``build_detector(cfg)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convbody.detection.model import build_detector as build_detector

__all__ = ["build_detector"]


def __getattr__(name: str) -> Any:
    if name == "build_detector":
        from convbody.detection.model import build_detector

        return build_detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
