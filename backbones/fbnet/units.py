"""What the blocks of FBNet are made of, and the options that all blocks of a network share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers.conv import conv_norm
from backbones.layers.norm import NormFactory, batch_norm

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "relu6": partial(nn.ReLU6, inplace=True),
}


@dataclass(frozen=True)
class UnitOptions:
    """How every block of a network is made.

    Attributes:
        norm: constructor of every norm.
        activation: constructor of every activation but that of squeeze-excite.
        width_divisor: the expanded width of a block is a multiple of it.
        dw_norm, dw_activation: whether the last depthwise convolution of a block has them.
    """

    norm: NormFactory = batch_norm
    activation: Callable[[], nn.Module] = ACTIVATIONS["relu"]
    width_divisor: int = 1
    dw_norm: bool = True
    dw_activation: bool = True


class ConvUnit(nn.Sequential):
    """``conv``, and after it, as far as there are, ``bn`` (any norm) and ``relu`` (any activation).

    Args:
        in_channels, out_channels, kernel_size, stride, groups: of the convolution, which has no bias and is
            padded so that stride 1 keeps the resolution.
        norm, activation: constructors; None leaves them out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        norm: NormFactory | None,
        activation: Callable[[], nn.Module] | None,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
        )
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if norm is not None:
            self.bn = norm(out_channels)
        if activation is not None:
            self.relu = activation()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        x = conv_norm(self.conv, self.bn, x) if hasattr(self, "bn") else self.conv(x)
        return self.relu(x) if hasattr(self, "relu") else x


class ChannelShuffle(nn.Module):
    """Lets the groups of a grouped convolution meet (Zhang et al. 2017, arXiv 1707.01083, figure 1)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape: channel (g, c) becomes channel (c, g)."""
        return F.channel_shuffle(x, self.groups)


class SqueezeExcite(nn.Module):
    """Squeeze-excite under its published names, ``op.1`` and ``op.3``; max(C / 4, 8) hidden channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 8)
        self.op = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        factor: Tensor = self.op(x)
        return x * factor


def round_width(width: float, divisor: int) -> int:
    """The multiple of ``divisor`` nearest to ``width``, halves up, and at least one; 0 does not round.

    The published function makes ``divisor`` squared of what is below half of ``divisor``, and nothing of what
    is below 1.

    >>> [round_width(width, 8) for width in (0.4, 3, 12, 20, 33.6)]
    [8, 8, 16, 24, 32]
    """
    if divisor < 1 or int(width) % divisor == 0:
        return max(int(width), divisor, 1)
    return max(math.floor(int(width) / divisor + 0.5), 1) * divisor
