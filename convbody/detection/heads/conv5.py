"""The last ResNet stage as a head on proposals: what C4 detectors use (He et al. 2015, section 4.3)."""

from __future__ import annotations

from torch import Tensor, nn

from backbones.resnet.head import build_res5_head
from registry import STAGE_SPECS, Config, ConfigError, parse_conv_body


class Conv5FeatureExtractor(nn.Module):
    """Stage 4 of the backbone's own ResNet: (N, C, S, S) to (N, 2C, S / 2, S / 2), or S when it is dilated.

    Raises:
        ConfigError: the backbone is not a ResNet that stops at stage 3.
    """

    def __init__(self, cfg: Config, in_channels: int, resolution: int) -> None:
        super().__init__()
        name = cfg.MODEL.BACKBONE.CONV_BODY
        body = parse_conv_body(name).body
        if body not in STAGE_SPECS or in_channels != 4 * cfg.MODEL.RESNETS.RES2_OUT_CHANNELS:
            raise ConfigError(
                f"ResNet's stage 4 as a head needs a ResNet that stops at stage 3 (R-50-C4), not {name}; "
                "choose FPN2MLPFeatureExtractor (POOLER_RESOLUTION 7) or a C4 backbone",
                "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR",
                cfg,
            )
        self.head = build_res5_head(cfg)
        self.out_channels: int = self.head.out_channels
        self.out_resolution = resolution if cfg.MODEL.RESNETS.RES5_DILATION > 1 else (resolution + 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Features of cut-outs."""
        features: Tensor = self.head(x)
        return features
