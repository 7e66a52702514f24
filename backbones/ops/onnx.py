"""Deformable convolution in ONNX files: the operator ``DeformConv`` of opset 19."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from backbones.ops import deform_conv as _  # noqa: F401  (declares the operator)


def translations() -> dict[Any, Callable[..., Any]]:
    """What ``torch.onnx.export`` must know to write the operators of this package.

    >>> torch.onnx.export(model, (x,), "model.onnx", dynamo=True, opset_version=19,
    ...                   custom_translation_table=translations())

    Any opset from 19 on will do. Needs the package onnxscript, as the exporter itself does.
    """
    return {torch.ops.convbody.deform_conv2d.default: _deform_conv}


def _deform_conv(
    input: Any,
    offset: Any,
    weight: Any,
    bias: Any,
    mask: Any,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
) -> Any:
    """ONNX orders taps and offsets as we do; its groups are attributes, and its padding has four sides."""
    from onnxscript import opset19

    group_channels, *kernel = weight.shape[1:]
    return opset19.DeformConv(
        input,
        weight,
        offset,
        bias,
        mask,
        strides=[stride_h, stride_w],
        pads=[pad_h, pad_w, pad_h, pad_w],
        dilations=[dilation_h, dilation_w],
        group=input.shape[1] // group_channels,
        offset_group=offset.shape[1] // (2 * kernel[0] * kernel[1]),
    )
