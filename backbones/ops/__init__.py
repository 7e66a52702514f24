"""Operators: the Python face of the kernels."""

from backbones.ops.deform_conv import deform_conv2d

__all__ = ["deform_conv2d"]
