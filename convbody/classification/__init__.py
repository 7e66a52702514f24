"""Classifiers on any backbone, and the recipe that gives a backbone its first weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convbody.classification.model import build_classifier as build_classifier

__all__ = ["build_classifier"]


def __getattr__(name: str) -> Any:
    if name == "build_classifier":
        from convbody.classification.model import build_classifier

        return build_classifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
