"""Necks that choose one feature: C4 and C5."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from backbones.spec import FeatureInfo
from registry import Config, ConfigError

CONV_BODY = "MODEL.BACKBONE.CONV_BODY"


class SingleFeature(nn.Module):
    """Gives one of the body's features, as a list."""

    def __init__(self, feature_info: Sequence[FeatureInfo], index: int) -> None:
        super().__init__()
        self.index = index
        self.used = self.feature_info = (feature_info[index],)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """All features of the body -> a list of one."""
        return [features[self.index]]


def build_c4(cfg: Config, feature_info: Sequence[FeatureInfo]) -> SingleFeature:
    """The first feature at stride 16.

    Raises:
        ConfigError: the body has none.
    """
    strides = [info.stride for info in feature_info]
    if 16 not in strides:
        raise ConfigError(f"C4 is the feature at stride 16; the body's are at {strides}", CONV_BODY, cfg)
    return SingleFeature(feature_info, strides.index(16))


def build_c5(cfg: Config, feature_info: Sequence[FeatureInfo]) -> SingleFeature:
    """The coarsest feature."""
    return SingleFeature(feature_info, len(feature_info) - 1)
