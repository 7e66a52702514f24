"""A convolution and the frozen norm after it, run as one convolution.

A frozen norm is a fixed scale and shift of every channel, so it goes into the weight and the bias on the way,
anew in every call: the output is written once, and neither pass of a training step sees the norm. The modules
and their state dict do not change.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers.norm import frozen_affine
from backbones.layers.quick_conv import finished, is_plain
from backbones.layers.recompute import watched
from backbones.ops.autocast import autocast_dtype
from backbones.ops.fused_conv import flipped, fused_conv2d, gradient_of_weight, quick_here, serves, suits


def frozen_conv_norm(
    conv: nn.Module, norm: nn.Module, x: Tensor, residual: Tensor | None = None, relu: bool = False
) -> Tensor | None:
    """``relu(norm(conv(x)) + residual)`` as one convolution; None where that cannot be.

    It cannot where the norm moves or learns, where the convolution is not plain, and where hooks watch one of
    the two modules.
    """
    if not is_plain(conv):
        return None
    affine = frozen_affine(norm)
    if affine is None or watched(conv, norm):
        return None
    scale, shift = affine
    if conv.bias is not None:
        shift = shift + scale * conv.bias
    shift = shift.to(conv.weight.dtype)
    options: Any = (conv.stride, conv.padding, conv.dilation, conv.groups)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return finished(F.conv2d(x, _scaled(conv.weight, scale), shift, *options), residual, relu)
    if conv.weight.requires_grad and torch.is_grad_enabled():
        dtype = autocast_dtype(x.device.type)
        if x.dtype is torch.float32 and dtype is not None:
            x = x.to(dtype)
        out: Tensor = _ScaledConv.apply(x, conv.weight, scale, shift, options)
        return finished(out, residual, relu)
    if _is_lighter_behind(x, conv.weight, conv.stride):
        out = _convolve(x, conv.weight, None, options)
        return finished(out.mul_(scale[:, None, None]).add_(shift[:, None, None]), residual, relu)
    return _convolve(x, _scaled(conv.weight, scale), shift, options, residual, relu)


def _is_lighter_behind(x: Tensor, weight: Tensor, stride: Any) -> bool:
    """Whether scaling the output costs less than scaling the weight, as on small maps with many channels.

    Nothing is kept from call to call: no count that torch keeps tells of every change of a weight.
    """
    positions = x.numel() // x.shape[-3] // (stride[0] * stride[1])
    wide = x.dtype is weight.dtype and weight.dtype in (torch.float32, torch.float64)
    return wide and 2 * positions < weight[0].numel() and autocast_dtype(x.device.type) is None


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    options: Any,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    if _is_quick(x, weight, options):
        return fused_conv2d(x, weight, bias, residual, relu)
    return finished(F.conv2d(x, weight, bias, *options), residual, relu)


def _is_quick(x: Tensor, weight: Tensor, options: Any) -> bool:
    return quick_here() and suits(weight, *options) and serves(x, weight)


class _ScaledConv(torch.autograd.Function):
    """conv2d by ``weight * scale``; the backward pass makes the product anew, and only the weight is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, options: Any) -> Tensor:
        ctx.save_for_backward(x, weight, scale)
        ctx.options = options
        return _convolve(x, _scaled(weight, scale), bias, options)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        product = _scaled(weight, scale).to(grad.dtype)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _gradient_of_input(grad, x, product, ctx.options)
        if ctx.needs_input_grad[1]:
            grad_weight = gradient_of_weight(grad, x, product, ctx.options)
            grad_weight = _scaled(grad_weight.to(weight.dtype), scale)
        if ctx.needs_input_grad[3]:
            grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, None, grad_bias, None


def _gradient_of_input(grad: Tensor, x: Tensor, weight: Tensor, options: Any) -> Tensor:
    if _is_quick(grad, weight, options):
        return fused_conv2d(grad, flipped(weight))
    stride, padding, dilation, groups = options
    options = (None, stride, padding, dilation, False, [0, 0], groups, [True, False, False])
    made: Tensor = torch.ops.aten.convolution_backward(grad, x, weight, *options)[0]
    return made


def _scaled(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight * scale[:, None, None, None]).to(weight.dtype)
