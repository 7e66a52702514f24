"""TinyNet: depthwise-separable convolutions in four stages, at strides 4, 8, 16 and 32."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from backbones import Backbone, FeatureInfo
from backbones.layers.norm import norm_from_cfg
from registry import Config, config_section, family_defaults


@config_section("MODEL.TINYNET")
def tinynet_defaults() -> dict[str, Any]:
    """This family's own keys: they exist wherever the plugin is installed and TinyNet is named."""
    return {
        # Channels of the four stages.
        "WIDTHS": (32, 64, 128, 256),
        # Any name in NORMS.
        "NORM": "BN",
    }


# Defaults of shared keys that differ for this family; a value in the YAML still counts.
family_defaults("TinyNet*", {"MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 64})


class TinyNet(Backbone):
    """A body small enough to read in a minute.

    Args:
        cfg: the whole config; this family reads MODEL.TINYNET.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        widths = cfg.MODEL.TINYNET.WIDTHS
        norm = norm_from_cfg(cfg, cfg.MODEL.TINYNET.NORM)
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False), norm(widths[0]), nn.ReLU()
        )
        channels = widths[0]
        for index, width in enumerate(widths, start=1):
            self.add_module(f"stage{index}", separable(channels, width, norm))
            channels = width
        self.feature_info = tuple(
            FeatureInfo(f"stage{index}", width, 2 ** (index + 1))
            for index, width in enumerate(widths, start=1)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) to four feature maps, finest first."""
        x = self.stem(x)
        features = []
        for info in self.feature_info:
            x = self.get_submodule(info.name)(x)
            features.append(x)
        return features


def separable(channels: int, width: int, norm: Any) -> nn.Sequential:
    """A depthwise 3x3 convolution with stride 2 and a pointwise one, each with norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
        norm(channels),
        nn.ReLU(),
        nn.Conv2d(channels, width, 1, bias=False),
        norm(width),
        nn.ReLU(),
    )
