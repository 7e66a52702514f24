"""Path aggregation (Liu et al. 2018, PANet, section 3.1): a feature pyramid, then the way back up."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from backbones.layers.recompute import recompute_from_cfg
from backbones.necks.fpn import FPN, ConvFactory, LastLevelMaxPool, LastLevelP6P7, conv_factory
from backbones.spec import FeatureInfo
from registry import Config


class PAFPN(FPN):
    """A feature pyramid whose levels, but for the finest, meet what comes up from the output before them.

    That output goes through a 3x3 convolution of stride 2, ``pa_down{i}``, is added to level i, and the sum
    goes through another, ``pa_layer{i}``. Arguments are those of :class:`FPN`. The published layers end in
    ReLU: MODEL.FPN.USE_RELU.
    """

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        min_level: int,
        out_channels: int,
        conv: ConvFactory,
        top_blocks: LastLevelMaxPool | LastLevelP6P7,
        recompute: bool = False,
    ) -> None:
        super().__init__(feature_info, min_level, out_channels, conv, top_blocks, recompute)
        for level, finer, info in zip(self._levels[1:], self.used, self.used[1:], strict=False):
            stride = info.stride // finer.stride  # 1 where dilation kept the resolution
            self.add_module(f"pa_down{level}", conv(out_channels, out_channels, 3, stride=stride))
            self.add_module(f"pa_layer{level}", conv(out_channels, out_channels, 3))

    def levels(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The levels that features of the body have, finest first."""
        pyramid = super().levels(features)
        outputs = pyramid[:1]
        for level, lateral in zip(self._levels[1:], pyramid[1:], strict=True):
            down = self.get_submodule(f"pa_down{level}")(outputs[-1])
            outputs.append(self.get_submodule(f"pa_layer{level}")(lateral + down))
        return outputs


def build_pafpn(cfg: Config, feature_info: Sequence[FeatureInfo]) -> PAFPN:
    """Path aggregation over strides 4 to 32, and 64 by pooling (MODEL.FPN)."""
    width = cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS
    return PAFPN(feature_info, 1, width, conv_factory(cfg), LastLevelMaxPool(), recompute_from_cfg(cfg))
