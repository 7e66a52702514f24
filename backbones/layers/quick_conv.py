"""Convolutions that take the CPU's quicker operator where there is one, and what follows them with it."""

from __future__ import annotations

from typing import TypeGuard

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.ops.fused_conv import fused_conv2d, quick_here, serves, suits


class QuickConv2d(nn.Conv2d):
    """nn.Conv2d, computed by :func:`backbones.ops.fused_conv.fused_conv2d` where that serves."""

    reorders = False  # whether it also takes images that are not channels_last, and gives such that are

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Conv2d's."""
        if serves(input, self.weight, self.reorders):
            return fused_conv2d(input, self.weight, self.bias)
        return super().forward(input)


def is_plain(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether ``conv`` computes nothing but conv2d of zero-padded images."""
    return (
        type(conv) in (nn.Conv2d, QuickConv2d)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )


def quicken(model: nn.Module, reorders: bool = False) -> float:
    """Makes the 3x3 convolutions of ``model`` quick that can be; their share of all convolutions' weights.

    Only their class changes, and nothing on machines where nothing is gained. With ``reorders``, for parts
    whose input comes in one order whatever the network's, they give channels_last maps.
    """
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    quick = [conv for conv in convs if _can_be_quick(conv)] if quick_here() else []
    for conv in quick:
        conv.__class__ = QuickConv2d
        setattr(conv, "reorders", reorders)  # noqa: B010  (mypy knows the class from before)
    return sum(conv.weight.numel() for conv in quick) / max(1, sum(conv.weight.numel() for conv in convs))


def _can_be_quick(conv: nn.Conv2d) -> bool:
    return (
        is_plain(conv)
        and conv.kernel_size == (3, 3)
        and suits(conv.weight, conv.stride, conv.padding, conv.dilation, conv.groups)  # type: ignore[arg-type]
    )


def finished(out: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """``out`` with what follows a convolution; ``out`` itself may be overwritten."""
    if residual is not None:
        out = out + residual
    return F.relu_(out) if relu else out
