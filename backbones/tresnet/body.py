"""TResNet as a body (Ridnik et al. 2020, arXiv 2003.13630): space to depth, stem, four stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from backbones.layers.norm import norm_from_cfg
from backbones.layers.space_to_depth import space_to_depth
from backbones.spec import Backbone, FeatureInfo, Stage
from backbones.tresnet.blocks import BasicBlock, Bottleneck, ConvNorm, conv
from registry import NORMS, Config, ConfigError, lookup, parse_conv_body

_STEM_SLOPE = 1e-2


@dataclass(frozen=True)
class Variant:
    """Blocks of stages 1 to 4, width of the stem, and how many of the first stages are of basic blocks."""

    blocks: tuple[int, int, int, int]
    width: int = 64
    basic_stages: int = 2


#: Ridnik et al. 2020, table 1; V2 is of bottlenecks throughout (arXiv 2104.10972).
VARIANTS = {
    "TResNet-M": Variant((3, 4, 11, 3)),
    "TResNet-L": Variant((4, 5, 18, 3), width=76),
    "TResNet-XL": Variant((4, 5, 24, 3), width=83),
    "TResNet-L-V2": Variant((3, 4, 23, 3), basic_stages=0),
}


class TResNet(Backbone):
    """Stem at stride 4 and four stages, all of them outputs, at strides 4, 8, 16 and 32.

    Args:
        variant: depths and widths.
        cfg: reads MODEL.TRESNETS.

    Raises:
        ConfigError: no channels, deformable convolutions in a stage of basic blocks, or not one flag a stage.
        UnknownNameError: no such norm.
    """

    def __init__(self, variant: Variant, cfg: Config) -> None:
        super().__init__()
        in_channels = cfg.MODEL.TRESNETS.IN_CHANNELS
        if in_channels < 1:
            raise ConfigError("at least 1 is needed", "MODEL.TRESNETS.IN_CHANNELS", cfg)
        lookup(NORMS, cfg, "MODEL.TRESNETS.NORM")
        norm = norm_from_cfg(cfg, cfg.MODEL.TRESNETS.NORM)
        dcn = _dcn_of_stages(variant, cfg)
        channels = variant.width
        self.stem = ConvNorm(conv(16 * in_channels, channels, 3), norm(channels), _STEM_SLOPE)
        infos = []
        for index, count in enumerate(variant.blocks):
            name, planes, stride = f"layer{index + 1}", variant.width * 2**index, 2 if index else 1
            blocks: list[nn.Module] = []
            for _ in range(count):
                if index < variant.basic_stages:
                    blocks.append(BasicBlock(channels, planes, stride, norm))
                    channels = planes * BasicBlock.expansion
                else:
                    blocks.append(Bottleneck(channels, planes, stride, norm, index < 3, dcn[index]))
                    channels = planes * Bottleneck.expansion
                stride = 1
            self.add_module(name, nn.Sequential(*blocks))
            infos.append(FeatureInfo(name, channels, 4 * 2**index))
        self.feature_info = tuple(infos)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, IN_CHANNELS, H, W) -> features of the four stages, finest first."""
        x = self.stem(space_to_depth(x))
        outputs = []
        for info in self.feature_info:
            x = self.get_submodule(info.name)(x)
            outputs.append(x)
        return outputs

    def stages(self) -> list[Stage]:
        """stem, layer1, layer2, layer3, layer4."""
        layers = [(info.name, [self.get_submodule(info.name)]) for info in self.feature_info]
        return [("stem", [self.stem]), *layers]


def build_tresnet_body(cfg: Config) -> TResNet:
    """TResNet (MODEL.TRESNETS): TResNet-M, TResNet-L, TResNet-XL, TResNet-L-V2."""
    return TResNet(VARIANTS[parse_conv_body(cfg.MODEL.BACKBONE.CONV_BODY).body], cfg)


def _dcn_of_stages(variant: Variant, cfg: Config) -> list[dict[str, Any] | None]:
    """Arguments of the deformable convolutions of each stage; None where there are none."""
    options = cfg.MODEL.TRESNETS
    key, flags = "MODEL.TRESNETS.STAGE_WITH_DCN", options.STAGE_WITH_DCN
    if len(flags) != len(variant.blocks):
        raise ConfigError(f"one flag per stage, {len(variant.blocks)}, is needed", key, cfg)
    if any(flags[: variant.basic_stages]):
        raise ConfigError(
            f"stages 1 to {variant.basic_stages} are of basic blocks, which are never deformable",
            key,
            cfg,
        )
    if options.DEFORMABLE_GROUPS < 1:
        raise ConfigError("at least 1 is needed", "MODEL.TRESNETS.DEFORMABLE_GROUPS", cfg)
    arguments = {
        "with_modulated_dcn": options.WITH_MODULATED_DCN,
        "deformable_groups": options.DEFORMABLE_GROUPS,
    }
    return [arguments if flag else None for flag in flags]
