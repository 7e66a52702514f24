"""Residual blocks: what the stages of a ResNet are made of."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers.conv import conv2d, conv_norm
from backbones.layers.deform_conv import DFConv2d
from backbones.layers.norm import FrozenBatchNorm2d, NormFactory
from backbones.layers.recompute import not_kept, watched
from registry import NORMS, TRANSFORMATION_MODULES, ConfigError


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, a norm after each, around a shortcut (He et al. 2015, figure 5).

    Args:
        in_channels, bottleneck_channels, out_channels: width of input, of the 3x3 convolution, of output.
        num_groups: groups of the 3x3 convolution (ResNeXt).
        stride_in_1x1: whether the stride is in the first 1x1 convolution or in the 3x3.
        stride, dilation: of the block; with dilation the stride becomes 1 and the resolution is kept.
        dcn_config: ``stage_with_dcn`` (deformable 3x3 or not), ``with_modulated_dcn``, ``deformable_groups``.
        norm: constructor of the norms; by default what NORMS has under the class's ``norm``.
        recompute: the backward pass computes again what the 3x3 convolution reads, where ``bn1`` is frozen.
    """

    norm = "FrozenBN"
    recompute = False

    def __init__(
        self,
        in_channels: int,
        bottleneck_channels: int,
        out_channels: int,
        num_groups: int = 1,
        stride_in_1x1: bool = True,
        stride: int = 1,
        dilation: int = 1,
        dcn_config: Mapping[str, Any] | None = None,
        norm: NormFactory | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        norm = norm or NORMS[self.norm]
        self.recompute = recompute
        stride = 1 if dilation > 1 else stride
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        # The shortcut comes first: optimizer states of published checkpoints go by the order of definition.
        self.downsample = projection(in_channels, out_channels, stride, norm)
        self.conv1 = conv2d(in_channels, bottleneck_channels, stride=stride_1x1)
        self.bn1 = norm(bottleneck_channels)
        self.conv2 = conv3x3(
            bottleneck_channels, bottleneck_channels, dcn_config, stride_3x3, num_groups, dilation
        )
        self.bn2 = norm(bottleneck_channels)
        self.conv3 = conv2d(bottleneck_channels, out_channels)
        self.bn3 = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        out = conv_norm(self.conv1, self.bn1, x)
        with not_kept([out], self._reduced, x) if self._can_recompute() else nullcontext():
            out = conv_norm(self.conv2, self.bn2, F.relu_(out))
        return conv_norm(self.conv3, self.bn3, F.relu_(out), shortcut(self.downsample, x), relu=True)

    def _reduced(self, x: Tensor) -> list[Tensor]:
        """What the 3x3 convolution reads."""
        return [F.relu_(conv_norm(self.conv1, self.bn1, x))]

    def _can_recompute(self) -> bool:
        return self.recompute and type(self.bn1) is FrozenBatchNorm2d and not watched(self.conv1, self.bn1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, a norm after each, around a shortcut (He et al. 2015, figure 5).

    Arguments are those of :class:`Bottleneck`; ``bottleneck_channels`` is the width between the convolutions,
    the first has the stride, the second may be deformable, and ``stride_in_1x1`` means nothing here.

    Raises:
        ConfigError: ``num_groups`` is not 1.
    """

    norm = "FrozenBN"

    def __init__(
        self,
        in_channels: int,
        bottleneck_channels: int,
        out_channels: int,
        num_groups: int = 1,
        stride_in_1x1: bool = True,
        stride: int = 1,
        dilation: int = 1,
        dcn_config: Mapping[str, Any] | None = None,
        norm: NormFactory | None = None,
    ) -> None:
        super().__init__()
        if num_groups != 1:
            raise ConfigError(
                f"basic blocks have no groups: MODEL.RESNETS.NUM_GROUPS is {num_groups}, must be 1"
            )
        norm = norm or NORMS[self.norm]
        stride = 1 if dilation > 1 else stride
        self.downsample = projection(in_channels, out_channels, stride, norm)
        self.conv1 = conv2d(in_channels, bottleneck_channels, 3, stride=stride, dilation=dilation)
        self.bn1 = norm(bottleneck_channels)
        self.conv2 = conv3x3(bottleneck_channels, out_channels, dcn_config, dilation=dilation)
        self.bn2 = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        out = F.relu_(conv_norm(self.conv1, self.bn1, x))
        return conv_norm(self.conv2, self.bn2, out, shortcut(self.downsample, x), relu=True)


def projection(in_channels: int, out_channels: int, stride: int, norm: NormFactory) -> nn.Sequential | None:
    """The 1x1 convolution and norm of a shortcut that changes shape; None where nothing changes."""
    if in_channels == out_channels and stride == 1:
        return None
    return nn.Sequential(conv2d(in_channels, out_channels, stride=stride), norm(out_channels))


def shortcut(downsample: nn.Sequential | None, x: Tensor) -> Tensor:
    """``x`` as it joins the residual: projected where there is a projection."""
    return x if downsample is None else conv_norm(downsample[0], downsample[1], x)


def conv3x3(
    in_channels: int,
    out_channels: int,
    dcn_config: Mapping[str, Any] | None = None,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> nn.Module:
    """The 3x3 convolution of a block: the one slot where it may be deformable."""
    if not dcn_config or not dcn_config.get("stage_with_dcn", False):
        return conv2d(in_channels, out_channels, 3, stride=stride, groups=groups, dilation=dilation)
    return DFConv2d(
        in_channels,
        out_channels,
        with_modulated_dcn=dcn_config.get("with_modulated_dcn", False),
        stride=stride,
        groups=groups,
        dilation=dilation,
        deformable_groups=dcn_config.get("deformable_groups", 1),
    )


@TRANSFORMATION_MODULES.register("BottleneckWithFixedBatchNorm")
class BottleneckWithFixedBatchNorm(Bottleneck):
    """A bottleneck with frozen batch norm."""

    norm = "FrozenBN"


@TRANSFORMATION_MODULES.register("BottleneckWithGN")
class BottleneckWithGN(Bottleneck):
    """A bottleneck with group norm."""

    norm = "GN"


@TRANSFORMATION_MODULES.register("BottleneckWithBatchNorm")
class BottleneckWithBatchNorm(Bottleneck):
    """A bottleneck with batch norm."""

    norm = "BN"


@TRANSFORMATION_MODULES.register("BottleneckWithSyncBN")
class BottleneckWithSyncBN(Bottleneck):
    """A bottleneck with batch norm over all processes."""

    norm = "SyncBN"


@TRANSFORMATION_MODULES.register("BasicBlockWithFixedBatchNorm")
class BasicBlockWithFixedBatchNorm(BasicBlock):
    """A basic block with frozen batch norm."""

    norm = "FrozenBN"


@TRANSFORMATION_MODULES.register("BasicBlockWithGN")
class BasicBlockWithGN(BasicBlock):
    """A basic block with group norm."""

    norm = "GN"


@TRANSFORMATION_MODULES.register("BasicBlockWithBatchNorm")
class BasicBlockWithBatchNorm(BasicBlock):
    """A basic block with batch norm."""

    norm = "BN"


@TRANSFORMATION_MODULES.register("BasicBlockWithSyncBN")
class BasicBlockWithSyncBN(BasicBlock):
    """A basic block with batch norm over all processes."""

    norm = "SyncBN"
