"""Convolutions on the CPU at a third of the multiplications, with what follows them (csrc/cpu/winograd.h)."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake

from backbones.ops.checks import check_devices
from backbones.ops.library import absent

_COMPILED = absent("cpu") is None
#: Instruction sets under which the operator was found quicker than torch's convolution.
_QUICK_ON = ("AVX2", "AVX512")
#: Channels come in multiples of this.
CHANNEL_STEP = 32
#: Output positions below which transforming the filters costs more than it saves.
_FEWEST_POSITIONS = 256
#: In times out channels: 36 transformed values for each, 36 MiB in all.
_MOST_FILTERS = 2**18

Pair = tuple[int, ...]


@cache
def quick_here() -> bool:
    """Whether this machine has the operator, and instructions that make it the quicker one."""
    return _COMPILED and torch.backends.cpu.get_cpu_capability() in _QUICK_ON


def suits(weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> bool:
    """Whether the operator can be that convolution: 3x3 or 1x1, stride 1, the size kept, wide enough."""
    out_channels, in_channels, height, width = weight.shape
    return (
        height == width
        and height in (1, 3)
        and all(step == 1 for step in (*stride, *dilation))
        and all(side == height // 2 for side in padding)
        and groups == 1
        and out_channels % CHANNEL_STEP == in_channels % CHANNEL_STEP == 0
        and in_channels * out_channels <= _MOST_FILTERS
    )


def serves(x: Tensor, weight: Tensor, reorders: bool = False) -> bool:
    """Whether ``x`` is what the operator is for: float32 pixels on the CPU, and enough of them.

    They must be channels_last, or be allowed to become so. Not where torch compiles or exports, nor under
    autocast: compilers fuse by themselves.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return (
        x.device.type == "cpu"
        and x.dtype is weight.dtype is torch.float32
        and x.dim() == 4
        and x.shape[0] * x.shape[2] * x.shape[3] >= _FEWEST_POSITIONS
        and (reorders or x.is_contiguous(memory_format=torch.channels_last))
        and not torch.is_autocast_enabled("cpu")
    )


def fused_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None, relu: bool = False
) -> Tensor:
    """``relu(conv2d(x, weight, bias) + residual)`` of stride 1, which keeps the size.

    3x3 convolutions take 36 multiplications for 16 outputs instead of 144 (Lavin and Gray 2015, arXiv
    1509.09308, F(4x4, 3x3)); rounding errors are about twice those of a plain sum. 1x1 convolutions are a
    product of matrices. Derivatives of every order are there.

    Args:
        x: (N, C, H, W), float32, on the CPU; channels_last is read without a copy.
        weight: (D, C, k, k), k being 1 or 3, C and D multiples of 32.
        bias: (D,).
        residual: (N, D, H, W), added before the ReLU.

    Returns:
        (N, D, H, W), channels_last.

    Raises:
        ArgumentError: tensors on different devices.
    """
    check_devices("fused_conv2d", input=x, weight=weight, bias=bias, residual=residual)
    out: Tensor = torch.ops.convbody.fused_conv2d(x, weight, bias, residual, relu)
    return out


def flipped(weight: Tensor) -> Tensor:
    """The filters (C, D, k, k) of the convolution that takes gradients from output to input."""
    return weight.flip(2, 3).transpose(0, 1)


def gradient_of_weight(grad: Tensor, x: Tensor, weight: Tensor, options: Any) -> Tensor:
    """That of conv2d, ``options`` being stride, padding, dilation and groups.

    torch makes it up to eight times as quickly on CPUs, if taps overlap, where nothing is channels_last.
    """
    stride, padding, dilation, groups = options
    if x.device.type == "cpu" and x.dtype is torch.float32 and weight.shape[2:].numel() > 1:
        grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    options = (None, stride, padding, dilation, False, [0, 0], groups, [False, True, False])
    made: Tensor = torch.ops.aten.convolution_backward(grad, x, weight, *options)[1]
    return made


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
    check_devices("fused_conv2d", input=x, weight=weight, bias=bias, residual=residual)
    shape = (x.shape[0], weight.shape[0], x.shape[2], x.shape[3])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, residual, relu = inputs
    ctx.save_for_backward(x, weight, output if relu else None)
    ctx.has_bias, ctx.has_residual = bias is not None, residual is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, output = ctx.saved_tensors
    if output is not None:
        grad = grad * (output > 0)
    pad, ones = [weight.shape[2] // 2] * 2, [1, 1]
    grad_x = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x = fused_conv2d(grad, flipped(weight))
    if ctx.needs_input_grad[1]:
        grad_weight = gradient_of_weight(grad, x, weight, (ones, pad, ones, 1))
    if ctx.has_bias and ctx.needs_input_grad[2]:
        grad_bias = grad.sum((0, 2, 3))
    return grad_x, grad_weight, grad_bias, grad if ctx.has_residual else None, None


_library = Library("convbody", "FRAGMENT")
if _COMPILED:
    register_fake("convbody::fused_conv2d", _fake, lib=_library)
    register_autograd("convbody::fused_conv2d", _backward, setup_context=_remember, lib=_library)
