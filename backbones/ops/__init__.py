"""Operators: deformable convolution, RoIAlign and non-maximum suppression, and which code computes them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backbones.ops.deform_conv import deform_conv2d
    from backbones.ops.library import status
    from backbones.ops.regions import roi_align
    from backbones.ops.suppression import batched_nms, nms

__all__ = ["batched_nms", "deform_conv2d", "nms", "roi_align", "status"]

_HOME = {
    "batched_nms": "backbones.ops.suppression",
    "deform_conv2d": "backbones.ops.deform_conv",
    "nms": "backbones.ops.suppression",
    "roi_align": "backbones.ops.regions",
    "status": "backbones.ops.library",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
