"""Late ResNet stages as a detection head: what a C4 detector runs on every region."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from backbones.resnet.body import block_factory, make_stage
from backbones.resnet.stages import last_stage
from backbones.spec import StageSpec
from registry import TRANSFORMATION_MODULES, Config


class ResNetHead(nn.Module):
    """Stages run on region features, (N, in_channels, 14, 14) -> (N, out_channels, 7, 7) for a stage 4 of
    stride 2.

    Args:
        block_module: a name in TRANSFORMATION_MODULES, or a block constructor.
        stages: specs of the stages; widths follow from their indices.
        num_groups, width_per_group, stride_in_1x1, res2_out_channels: as in MODEL.RESNETS.
        stride_init: stride of the first stage; None is 2, or 1 for stage 1.
        dilation: of every convolution; with more than 1 all strides are 1.
        dcn_config: deformable convolutions, as a block takes it.
    """

    def __init__(
        self,
        block_module: str | Callable[..., nn.Module],
        stages: Sequence[StageSpec],
        num_groups: int = 1,
        width_per_group: int = 64,
        stride_in_1x1: bool = True,
        stride_init: int | None = None,
        res2_out_channels: int = 256,
        dilation: int = 1,
        dcn_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        block = TRANSFORMATION_MODULES[block_module] if isinstance(block_module, str) else block_module
        block = partial(block, num_groups=num_groups, stride_in_1x1=stride_in_1x1)
        width = 2 ** (stages[0].index - 1)
        bottleneck_channels, out_channels = num_groups * width_per_group * width, res2_out_channels * width
        in_channels, stride = out_channels // 2, stride_init
        for spec in stages:
            stage = make_stage(
                block,
                spec.block_count,
                in_channels,
                bottleneck_channels,
                out_channels,
                stride or (1 if spec.index == 1 else 2),
                dilation=dilation,
                dcn_config=dcn_config,
            )
            self.add_module(f"layer{spec.index}", stage)
            in_channels, stride = out_channels, None
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, Ho, Wo)."""
        for stage in self.children():
            x = stage(x)
        return x


def build_res5_head(cfg: Config) -> ResNetHead:
    """Stage 4 of the configured ResNet as a head: what its C4 body leaves out; never deformable."""
    options = cfg.MODEL.RESNETS
    spec = last_stage(cfg)
    return ResNetHead(
        block_factory(cfg, spec),
        (spec,),
        num_groups=options.NUM_GROUPS,
        width_per_group=options.WIDTH_PER_GROUP,
        stride_in_1x1=options.STRIDE_IN_1X1,
        res2_out_channels=options.RES2_OUT_CHANNELS,
        dilation=options.RES5_DILATION,
    )
