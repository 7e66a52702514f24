"""FBNet as a body (Wu et al. 2018, arXiv 1812.03443): a first convolution, then blocks in a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, groupby

from torch import Tensor, nn

from backbones.build import BodyAndNeck
from backbones.fbnet.arch import Architecture, Block
from backbones.fbnet.builder import Builder, builder_from_cfg, with_first_stride
from backbones.fbnet.find import architecture_of
from backbones.spec import Backbone, FeatureInfo, Stage
from registry import Config, ConfigError

_FINEST, _COARSEST = 4, 32  # strides of a pyramid's features


class FBNet(Backbone):
    """The first convolution of an architecture and some of its blocks.

    Its stages end where the resolution halves, and are called after their last block; ``first`` is in the
    stem. The last block of every stage from stride 4 on gives a feature.

    Args:
        architecture: gives the first convolution.
        blocks: in a row.
        builder: makes the modules.

    Raises:
        ConfigError: a block that cannot be built, or that makes the resolution finer.
    """

    def __init__(self, architecture: Architecture, blocks: Sequence[Block], builder: Builder) -> None:
        super().__init__()
        self.first = builder.first(architecture)
        self._modules["stages"] = _Row(self._stages)
        infos = [FeatureInfo("first", self.first.conv.out_channels, architecture.first[1])]
        for placed in builder.place(blocks, infos[0].channels, infos[0].stride):
            block = placed.block
            if block.stride < 1:
                raise ConfigError(f"{block.name} would upsample, which is for heads alone ({block.where})")
            self.stages.add_module(block.name, builder.block(placed))
            infos.append(FeatureInfo(block.name, placed.out_channels, int(placed.stride)))
        self._runs = [list(run) for _, run in groupby(infos, key=lambda info: info.stride)]
        self.feature_info = tuple(run[-1] for run in self._runs if run[-1].stride >= _FINEST)
        if not self.feature_info:
            raise ConfigError(f"the trunk stops at stride {infos[-1].stride}, before any feature")

    @property
    def stages(self) -> _Row:
        """The blocks, under their published name; ``stages()`` are the stages, as of every backbone."""
        row = self._modules["stages"]
        assert isinstance(row, _Row)
        return row

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> features, finest first."""
        wanted = {info.name for info in self.feature_info}
        x = self.first(x)
        outputs = [x] if "first" in wanted else []
        for name, block in self.stages.named_children():
            x = block(x)
            if name in wanted:
                outputs.append(x)
        return outputs

    def _stages(self) -> list[Stage]:
        modules = {"first": self.first, **dict(self.stages.named_children())}
        return [(run[-1].name, [modules[info.name] for info in run]) for run in self._runs]


class _Row(nn.Module):
    """The blocks of a body. The published name ``stages`` is also that of a method of Backbone, so that a
    call without arguments does what the method does.
    """

    def __init__(self, stages: Callable[[], list[Stage]]) -> None:
        super().__init__()
        self._describe = stages

    def forward(self) -> list[Stage]:
        """The stages of the body."""
        return self._describe()


def build_fbnet(cfg: Config) -> BodyAndNeck:
    """FBNet as published (MODEL.FBNET): the trunk of MODEL.FBNET.ARCH, whose only output is its last."""
    architecture = architecture_of(cfg)
    body = FBNet(architecture, architecture.blocks("backbone"), builder_from_cfg(cfg))
    body.feature_info = body.feature_info[-1:]
    return BodyAndNeck(body, None)


def build_fbnet_body(cfg: Config) -> FBNet:
    """FBNet (MODEL.FBNET) with features at strides 4, 8, 16 and 32.

    A trunk that stops before stride 32 goes on with the blocks of the box head, at stride 2.
    """
    architecture = architecture_of(cfg)
    blocks = architecture.blocks("backbone")
    *_, stride = accumulate((block.stride for block in blocks), int.__mul__, initial=architecture.first[1])
    head = architecture.blocks("bbox")
    if stride < _COARSEST and head:
        blocks += with_first_stride(head, 2)
    return FBNet(architecture, blocks, builder_from_cfg(cfg))
