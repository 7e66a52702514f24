"""Operators: deformable convolution, and which code computes it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backbones.ops.deform_conv import deform_conv2d
    from backbones.ops.library import status

__all__ = ["deform_conv2d", "status"]

_HOME = {"deform_conv2d": "backbones.ops.deform_conv", "status": "backbones.ops.library"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
