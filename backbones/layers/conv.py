"""Convolutions as every family makes them, and the one place where a convolution meets its norm."""

from __future__ import annotations

from torch import Tensor, nn

from backbones.layers.frozen_conv import frozen_conv_norm
from backbones.layers.quick_conv import finished


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    bias: bool = False,
) -> nn.Conv2d:
    """A convolution that keeps the resolution at stride 1, initialised as the published detectors are."""
    padding = dilation * (kernel_size - 1) // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
    init_conv(conv)
    return conv


def init_conv(conv: nn.Module) -> None:
    """Kaiming uniform with a=1 for the weight, zeros for the bias."""
    nn.init.kaiming_uniform_(conv.weight, a=1)  # type: ignore[arg-type]
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]


def conv_norm(
    conv: nn.Module, norm: nn.Module, x: Tensor, residual: Tensor | None = None, relu: bool = False
) -> Tensor:
    """``relu(norm(conv(x)) + residual)``: every block of every family goes through here.

    A frozen norm costs nothing, and what follows it costs little where autograd does not watch.
    """
    out = frozen_conv_norm(conv, norm, x, residual, relu)
    return finished(norm(conv(x)), residual, relu) if out is None else out
