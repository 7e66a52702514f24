"""Residual blocks of TResNet (Ridnik et al. 2020, arXiv 2003.13630, section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers.activated_norm import fuse_activation
from backbones.layers.blur_pool import BlurPool2d
from backbones.layers.conv import conv_norm
from backbones.layers.deform_conv import DFConv2d
from backbones.layers.norm import NormFactory
from backbones.layers.squeeze_excite import SqueezeExcite

SLOPE = 1e-3  # of the leaky ReLU in the blocks


class ConvNorm(nn.Sequential):
    """A convolution, its norm and, with a ``slope``, a leaky ReLU, which the norm applies if it can.

    A stride of 2 is an anti-aliased subsampling behind all that.
    """

    def __init__(self, conv: nn.Module, norm: nn.Module, slope: float | None = None, stride: int = 1) -> None:
        super().__init__(conv, norm, *([BlurPool2d()] if stride == 2 else []))
        self._slope = None if slope is None or fuse_activation(norm, "leaky_relu", slope) else slope

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        conv, norm, *blur = self
        x = conv_norm(conv, norm, x)
        if self._slope is not None:
            x = F.leaky_relu_(x, self._slope)
        return blur[0](x) if blur else x


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and squeeze-excite around a shortcut; a stride is in the first.

    Args:
        in_channels, planes: width of input and of everything else.
        stride: 1 or 2.
        norm: constructor of the norms.
    """

    expansion = 1

    def __init__(self, in_channels: int, planes: int, stride: int, norm: NormFactory) -> None:
        super().__init__()
        self.conv1 = ConvNorm(conv(in_channels, planes, 3), norm(planes), SLOPE, stride)
        self.conv2 = ConvNorm(conv(planes, planes, 3), norm(planes))
        self.downsample = projection(in_channels, planes, stride, norm)
        self.se = squeeze_excite(planes, planes // 4)
        # Squeeze-excite keeps the output of the norm, so that its input need not be kept.
        fuse_activation(self.conv2[1], "identity")
        start_at_zero(self.conv2[1])

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, planes, ceil(H / stride), ceil(W / stride))."""
        out: Tensor = self.se(self.conv2(self.conv1(x)))
        return F.relu_(out.add_(x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut, squeeze-excite before the last; a stride is in
    the 3x3.

    Args:
        in_channels, planes: width of input and of the 3x3 convolution; the output has four times ``planes``.
        stride: 1 or 2.
        norm: constructor of the norms.
        with_se: whether there is squeeze-excite.
        dcn: arguments of DFConv2d when the 3x3 convolution is deformable, else None.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int,
        norm: NormFactory,
        with_se: bool = True,
        dcn: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        out_channels = planes * self.expansion
        conv2 = conv(planes, planes, 3) if dcn is None else DFConv2d(planes, planes, **dcn)
        self.conv1 = ConvNorm(conv(in_channels, planes, 1), norm(planes), SLOPE)
        self.conv2 = ConvNorm(conv2, norm(planes), SLOPE, stride)
        self.conv3 = ConvNorm(conv(planes, out_channels, 1), norm(out_channels))
        self.downsample = projection(in_channels, out_channels, stride, norm)
        self.se = squeeze_excite(planes, out_channels // 8) if with_se else None
        start_at_zero(self.conv3[1])

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 4 * planes, ceil(H / stride), ceil(W / stride))."""
        out: Tensor = self.conv2(self.conv1(x))
        if self.se is not None:
            out = self.se(out)
        out = self.conv3(out)
        return F.relu_(out.add_(x if self.downsample is None else self.downsample(x)))


def conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """A convolution that keeps the resolution, initialised as the published networks are."""
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    init_conv(layer)
    return layer


def init_conv(layer: nn.Conv2d) -> None:
    """Kaiming normal, scaled by the output; a bias is left as it is."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="leaky_relu")


def squeeze_excite(channels: int, hidden: int) -> SqueezeExcite:
    """Squeeze-excite of at least 64 hidden channels."""
    layer = SqueezeExcite(channels, max(hidden, 64))
    init_conv(layer.fc1)
    init_conv(layer.fc2)
    return layer


def projection(in_channels: int, out_channels: int, stride: int, norm: NormFactory) -> nn.Sequential | None:
    """The shortcut where the shape changes: average pool for a stride of 2, 1x1 convolution, norm."""
    if stride == 1 and in_channels == out_channels:
        return None
    layers: list[nn.Module] = [ConvNorm(conv(in_channels, out_channels, 1), norm(out_channels))]
    if stride == 2:
        layers.insert(0, nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False))
    return nn.Sequential(*layers)


def start_at_zero(norm: nn.Module) -> None:
    """The residual branch that ends in ``norm`` starts as nothing, where the norm can learn."""
    if isinstance(norm.weight, nn.Parameter):
        nn.init.zeros_(norm.weight)
