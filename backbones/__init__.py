"""Backbones: an image becomes feature maps at several scales."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backbones.classifier import Classifier
    from backbones.contract import assert_backbone_contract
    from backbones.spec import Backbone, FeatureInfo, StageSpec

__all__ = [
    "Backbone",
    "Classifier",
    "FeatureInfo",
    "StageSpec",
    "assert_backbone_contract",
    "build_backbone",
]

_HOME = {
    "Backbone": "backbones.spec",
    "Classifier": "backbones.classifier",
    "FeatureInfo": "backbones.spec",
    "StageSpec": "backbones.spec",
    "assert_backbone_contract": "backbones.contract",
    "build_backbone": "backbones.build",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
