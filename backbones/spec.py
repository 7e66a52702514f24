"""The contract of a backbone, and the small records it is written in."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

Stage = tuple[str, list[nn.Module]]


@dataclass(frozen=True)
class StageSpec:
    """One residual stage of a network.

    Attributes:
        index: number of the stage, from 1; the stem is not one.
        block_count: residual blocks in it.
        return_features: whether its output is a feature of the body.
        basic: whether it is made of basic blocks (two 3x3 convolutions) rather than bottlenecks.
    """

    index: int
    block_count: int
    return_features: bool
    basic: bool = False


@dataclass(frozen=True)
class FeatureInfo:
    """One output of a backbone: the stage it comes from, its channels, and its stride in input pixels."""

    name: str
    channels: int
    stride: int


class Backbone(nn.Module):
    """Turns images (N, 3, H, W) into a list of feature maps, finest first.

    A subclass sets ``feature_info``, one entry per output, and defines ``forward``. An output is named after
    the stage that gives it; any image size works, and a feature at stride s is ceil(H / s) by ceil(W / s).
    """

    feature_info: tuple[FeatureInfo, ...]
    frozen_stages: int = 0  # how many of stages(), from the first, freeze() has frozen

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps (N, channels, H / stride, W / stride), finest first, of images (N, 3, H, W)."""
        raise NotImplementedError

    def stages(self) -> list[Stage]:
        """The parts in the order they run, stem first, each a name and its modules.

        Freezing and layer-wise learning rates act on this list alone. By default every child is a stage.
        """
        return [(name, [child]) for name, child in self.named_children()]

    @property
    def out_channels(self) -> int:
        """Channels of the coarsest output: what a head sees (after a neck all outputs are equal)."""
        return self.feature_info[-1].channels

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each output, in input pixels."""
        return tuple(info.stride for info in self.feature_info)

    @property
    def size_divisibility(self) -> int:
        """Images whose sides are multiples of this give features whose sizes are exact quotients."""
        return math.lcm(*self.strides)

    def train(self, mode: bool = True) -> Backbone:
        """As nn.Module.train, but frozen stages stay in evaluation mode: their statistics stand still."""
        super().train(mode)
        for _, modules in self.stages()[: self.frozen_stages]:
            for module in modules:
                module.eval()
        return self
