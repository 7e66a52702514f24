"""ResNet and ResNeXt as a body: stem, then stages of residual blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from backbones.layers.norm import norm_from_cfg
from backbones.layers.recompute import recompute_from_cfg
from backbones.resnet.stages import stage_specs
from backbones.spec import Backbone, FeatureInfo, Stage, StageSpec
from registry import STEM_MODULES, TRANSFORMATION_MODULES, Config, ConfigError, lookup

BlockFactory = Callable[..., nn.Module]

_COUNTS = (
    "STEM_OUT_CHANNELS",
    "RES2_OUT_CHANNELS",
    "NUM_GROUPS",
    "WIDTH_PER_GROUP",
    "RES5_DILATION",
    "DEFORMABLE_GROUPS",
)


class ResNet(Backbone):
    """Stem and stages; each stage that its spec marks is an output.

    Args:
        cfg: reads MODEL.RESNETS and, to find the stages, MODEL.BACKBONE.CONV_BODY.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        options = cfg.MODEL.RESNETS
        for key in _COUNTS:
            if options[key] < 1:
                raise ConfigError("at least 1 is needed", f"MODEL.RESNETS.{key}", cfg)
        specs = stage_specs(cfg)
        if len(options.STAGE_WITH_DCN) < len(specs):
            raise ConfigError(
                f"one flag per stage, {len(specs)}, is needed", "MODEL.RESNETS.STAGE_WITH_DCN", cfg
            )
        self.stem = lookup(STEM_MODULES, cfg, "MODEL.RESNETS.STEM_FUNC")(cfg)
        in_channels, stride = self.stem.out_channels, self.stem.stride
        infos = []
        self._returned = {}
        for spec in specs:
            name = f"layer{spec.index}"
            dilation = options.RES5_DILATION if spec.index == 4 else 1
            first_stride = 1 if spec.index == 1 or dilation > 1 else 2
            width = 2 ** (spec.index - 1)
            out_channels = options.RES2_OUT_CHANNELS * width
            stage = make_stage(
                block_factory(cfg, spec),
                spec.block_count,
                in_channels,
                options.NUM_GROUPS * options.WIDTH_PER_GROUP * width,
                out_channels,
                first_stride,
                dilation=dilation,
                dcn_config={
                    "stage_with_dcn": options.STAGE_WITH_DCN[spec.index - 1],
                    "with_modulated_dcn": options.WITH_MODULATED_DCN,
                    "deformable_groups": options.DEFORMABLE_GROUPS,
                },
            )
            self.add_module(name, stage)
            in_channels, stride = out_channels, stride * first_stride
            self._returned[name] = spec.return_features
            if spec.return_features:
                infos.append(FeatureInfo(name, out_channels, stride))
        self.feature_info = tuple(infos)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> the features of the returned stages, finest first."""
        x = self.stem(x)
        outputs = []
        for name, returned in self._returned.items():
            x = self.get_submodule(name)(x)
            if returned:
                outputs.append(x)
        return outputs

    def stages(self) -> list[Stage]:
        """stem, layer1, layer2, ..."""
        return [(name, [self.get_submodule(name)]) for name in ("stem", *self._returned)]


def build_resnet_body(cfg: Config) -> ResNet:
    """ResNet and ResNeXt (MODEL.RESNETS): R-18, R-34, R-50, R-101, R-152."""
    return ResNet(cfg)


def block_factory(cfg: Config, spec: StageSpec) -> BlockFactory:
    """The configured block with the options that all blocks of a network share.

    Depths made of basic blocks take the basic block with the norm of the configured bottleneck.
    """
    options = cfg.MODEL.RESNETS
    block: Any = lookup(TRANSFORMATION_MODULES, cfg, "MODEL.RESNETS.TRANS_FUNC")
    kind, separator, norm = options.TRANS_FUNC.partition("With")
    if spec.basic and kind == "Bottleneck":
        block = TRANSFORMATION_MODULES[f"BasicBlock{separator}{norm}"]
    shared = {"num_groups": options.NUM_GROUPS, "stride_in_1x1": options.STRIDE_IN_1X1}
    if hasattr(block, "norm"):
        shared["norm"] = norm_from_cfg(cfg, block.norm)
    if hasattr(block, "recompute"):
        shared["recompute"] = recompute_from_cfg(cfg)
    return partial(block, **shared)


def make_stage(
    block: BlockFactory,
    count: int,
    in_channels: int,
    bottleneck_channels: int,
    out_channels: int,
    first_stride: int,
    **options: Any,
) -> nn.Sequential:
    """``count`` blocks in a row; the first changes channels and resolution."""
    first = block(in_channels, bottleneck_channels, out_channels, stride=first_stride, **options)
    rest = [block(out_channels, bottleneck_channels, out_channels, **options) for _ in range(count - 1)]
    return nn.Sequential(first, *rest)
