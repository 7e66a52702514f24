"""A convolution that learns where to look: offsets predicted from the input displace its taps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backbones.layers.conv import conv2d, init_conv
from backbones.ops import deform_conv2d
from registry import ConfigError


class _DeformableTaps(nn.Module):
    """Weight (and bias) of the deformable convolution itself."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, groups: int, bias: bool
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        init_conv(self)


class DFConv2d(nn.Module):
    """Deformable convolution with the ordinary convolution that predicts its offsets.

    The predictor gives 2 * G * k * k channels, (dy, dx) per tap and deformable group; modulated (v2), G * k *
    k more follow: the logits of a factor in (0, 1) per tap. At first no tap is displaced beyond what the
    predictor's random weights say.

    Args:
        in_channels, out_channels, kernel_size, stride, groups, dilation, bias: as of a convolution.
        with_modulated_dcn: v2 rather than v1.
        deformable_groups: G; each displaces its own share of the input channels.

    Raises:
        ConfigError: the input channels do not divide by the groups.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        with_modulated_dcn: bool = True,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        deformable_groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if in_channels % deformable_groups:
            raise ConfigError(
                f"deformable convolution: {in_channels} channels do not divide by {deformable_groups} "
                "(DEFORMABLE_GROUPS)"
            )
        self.stride = stride
        self.dilation = dilation
        self.padding = dilation * (kernel_size - 1) // 2
        taps = deformable_groups * kernel_size * kernel_size
        self.split = [2 * taps, taps if with_modulated_dcn else 0]
        self.offset = conv2d(
            in_channels, sum(self.split), kernel_size, stride=stride, dilation=dilation, bias=True
        )
        self.conv = _DeformableTaps(in_channels, out_channels, kernel_size, groups, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, Ho, Wo)."""
        offset, logits = self.offset(x).split(self.split, dim=1)
        mask = logits.sigmoid() if self.split[1] else None
        return deform_conv2d(
            x, offset, self.conv.weight, self.conv.bias, self.stride, self.padding, self.dilation, mask
        )
