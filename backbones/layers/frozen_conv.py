"""A convolution and the frozen norm after it, run as one convolution.

A frozen norm is a fixed scale and shift of every channel, so it goes into the weight and the bias on the way:
the output is written once, and neither pass of a training step sees the norm. The modules and their state
dict do not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from backbones.layers.norm import frozen_affine


def frozen_conv_norm(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor | None:
    """``norm(conv(x))`` as one convolution; None where that cannot be.

    It cannot where the norm moves or learns, where the convolution is not plain, and where hooks watch one of
    the two modules.
    """
    if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return None
    affine = frozen_affine(norm)
    if affine is None or _has_any_global_hook() or _has_hooks(conv) or _has_hooks(norm):
        return None
    scale, shift = affine
    if conv.bias is not None:
        shift = shift + scale * conv.bias
    shift = shift.to(conv.weight.dtype)
    options = (conv.stride, conv.padding, conv.dilation, conv.groups)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return F.conv2d(x, _scaled(conv.weight, scale), shift, *options)
    if conv.weight.requires_grad and torch.is_grad_enabled():
        device = x.device.type
        if x.dtype is torch.float32 and torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        out: Tensor = _ScaledConv.apply(x, conv.weight, scale, shift, options)
        return out
    return F.conv2d(x, _kept_product(conv, scale), shift, *options)


class _ScaledConv(torch.autograd.Function):
    """conv2d by ``weight * scale``; the backward pass makes the product anew, and only the weight is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, options: Any) -> Tensor:
        ctx.save_for_backward(x, weight, scale)
        ctx.options = options
        return F.conv2d(x, _scaled(weight, scale), bias, *options)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        wanted = [ctx.needs_input_grad[i] for i in (0, 1, 3)]
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, x, _scaled(weight, scale).to(grad.dtype), [weight.shape[0]],
            stride, padding, dilation, False, [0, 0], groups, wanted,
        )  # fmt: skip
        grad_weight = _scaled(grad_weight.to(weight.dtype), scale) if wanted[1] else None
        return grad_x, grad_weight, None, grad_bias, None


def _scaled(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight * scale[:, None, None, None]).to(weight.dtype)


@dataclass(frozen=True)
class _Product:
    weight_state: tuple[int, int]
    first_filter: Tensor
    scale: Tensor
    value: Tensor


_PRODUCTS: WeakKeyDictionary[nn.Conv2d, _Product] = WeakKeyDictionary()


def _kept_product(conv: nn.Conv2d, scale: Tensor) -> Tensor:
    """``weight * scale``, kept from call to call on CPUs: making it can cost 5% of a small image's time.

    It is made anew when weight or norm have changed. torch counts the changes of a tensor, except those made
    through ``.data``: the first filter shows them.
    """
    weight = conv.weight.detach()
    if weight.device.type != "cpu" or type(weight) is not Tensor or weight.is_inference():
        return _scaled(weight, scale)
    state = (weight._version, weight.data_ptr())
    kept = _PRODUCTS.get(conv)
    if (
        kept is None
        or kept.weight_state != state
        or not torch.equal(kept.scale, scale)
        or not torch.equal(kept.first_filter, weight[:1])
    ):
        with torch.inference_mode(False), torch.no_grad():
            kept = _Product(state, weight[:1].clone(), scale, _scaled(weight, scale))
        _PRODUCTS[conv] = kept
    return kept.value


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
