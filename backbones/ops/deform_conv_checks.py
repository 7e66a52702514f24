"""What is asked of the arguments of a deformable convolution, whichever code computes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backbones.ops.checks import ArgumentError

_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_OPTIONS = ("stride", "stride", "padding", "padding", "dilation", "dilation")


def check_arguments(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    options: Sequence[int],
) -> None:
    """Raises ArgumentError, with the shapes, unless deformable convolution is defined for the arguments."""
    others = {"offset": offset, "weight": weight, "bias": bias, "mask": mask}
    _check_kinds(input, {name: tensor for name, tensor in others.items() if tensor is not None})
    _check_options(options)
    batch, channels, *size = input.shape
    out_channels, group_channels, *kernel = weight.shape
    taps = kernel[0] * kernel[1]
    whose = f"an input of shape {_shape(input)} and a weight of shape {_shape(weight)}"
    if taps == 0 or group_channels == 0 or out_channels == 0:
        raise ArgumentError(
            f"deform_conv2d: the weight has no elements: shape {_shape(weight)}, for an input of shape "
            f"{_shape(input)}"
        )
    groups = channels // group_channels
    if groups == 0 or channels % group_channels or out_channels % groups:
        raise ArgumentError(f"deform_conv2d: the channels do not divide into groups, for {whose}")
    out_size = [_out_size(size[axis], kernel[axis], *options[axis::2]) for axis in (0, 1)]
    if min(out_size) < 1:
        raise ArgumentError(
            f"deform_conv2d: the input is too small: nothing is left to compute with stride, padding and "
            f"dilation {tuple(options)}, for {whose}"
        )
    offset_groups = offset.shape[1] // (2 * taps)
    if offset_groups == 0 or offset.shape[1] % (2 * taps) or channels % offset_groups:
        raise ArgumentError(
            f"deform_conv2d: an offset of shape {_shape(offset)} needs 2 * G * {taps} channels, where G "
            f"deformable groups divide the {channels} input channels, for {whose}"
        )
    _check_shape("offset", offset, (batch, 2 * offset_groups * taps, *out_size), whose)
    if mask is not None:
        _check_shape("mask", mask, (batch, offset_groups * taps, *out_size), whose)
    if bias is not None:
        _check_shape("bias", bias, (out_channels,), whose)


def _check_kinds(input: Tensor, others: dict[str, Tensor]) -> None:
    if input.dtype not in _TYPES:
        raise ArgumentError(
            f"deform_conv2d: the input of shape {_shape(input)} is {input.dtype}; it works on float64, "
            "float32, float16 and bfloat16"
        )
    for name, tensor in {"input": input, **others}.items():
        if name != "bias" and tensor.dim() != 4:
            raise ArgumentError(
                f"deform_conv2d: {name} of shape {_shape(tensor)} must have 4 dimensions, beside an input of "
                f"shape {_shape(input)}"
            )
        if tensor.dtype != input.dtype or tensor.device != input.device:
            raise ArgumentError(
                f"deform_conv2d: {name} of shape {_shape(tensor)} is {tensor.dtype} on {tensor.device}, the "
                f"input of shape {_shape(input)} is {input.dtype} on {input.device}; they must agree"
            )


def _check_options(options: Sequence[int]) -> None:
    for name, value in zip(_OPTIONS, options, strict=True):
        smallest = 0 if name == "padding" else 1
        if not smallest <= value < 2**31:
            raise ArgumentError(
                f"deform_conv2d: {name} is {value}; it must be at least {smallest} and below 2**31"
            )


def _check_shape(name: str, tensor: Tensor, wanted: tuple[int, ...], whose: str) -> None:
    if tensor.shape != wanted:
        raise ArgumentError(f"deform_conv2d: {name} has shape {_shape(tensor)}, not {wanted}, for {whose}")


def _out_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
