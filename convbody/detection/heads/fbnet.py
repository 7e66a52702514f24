"""Heads made of the blocks of an FBNet architecture, under their published names (MODEL.FBNET)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from backbones.fbnet.arch import Architecture, Block
from backbones.fbnet.builder import builder_from_cfg, with_first_stride
from backbones.fbnet.find import architecture_of
from registry import Config, ConfigError
from registry.tree import value_of


class RPNBlocks(nn.Module):
    """The blocks of the architecture's ``rpn`` stages, on every feature map."""

    def __init__(self, cfg: Config, in_channels: int) -> None:
        super().__init__()
        architecture = architecture_of(cfg)
        blocks = _part(architecture, ("rpn",), cfg, "MODEL.RPN.RPN_HEAD")
        wanted = architecture.rpn_stride
        if wanted is not None and cfg.MODEL.RPN.ANCHOR_STRIDE[0] != wanted:
            raise ConfigError(
                f"architecture {architecture.name!r} is made for anchors every {wanted} pixels",
                "MODEL.RPN.ANCHOR_STRIDE",
                cfg,
            )
        used = cfg.MODEL.FBNET.RPN_HEAD_BLOCKS
        if used > len(blocks):
            raise ConfigError(f"the head has {len(blocks)} blocks", "MODEL.FBNET.RPN_HEAD_BLOCKS", cfg)
        if used > 0:
            blocks = blocks[-used:]
        norm_key = "MODEL.FBNET.RPN_BN_TYPE" if cfg.MODEL.FBNET.RPN_BN_TYPE else "MODEL.FBNET.BN_TYPE"
        builder = builder_from_cfg(cfg, norm_key)
        self.head = builder.blocks(blocks, in_channels)
        self.out_channels = builder.width(blocks[-1].channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Feature maps (N, C, H, W) -> maps (N, out_channels, H, W)."""
        return [self.head(feature) for feature in features]


class AnchorPredictor(nn.Module):
    """Objectness (N, A, H, W) and deltas (N, 4A, H, W) of the A anchors of a cell, by 1x1 convolutions."""

    def __init__(self, in_channels: int, num_anchors: int) -> None:
        super().__init__()
        self.cls_logits = nn.Conv2d(in_channels, num_anchors, 1)
        self.bbox_pred = nn.Conv2d(in_channels, 4 * num_anchors, 1)
        for layer in (self.cls_logits, self.bbox_pred):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Both, of each feature map."""
        return [self.cls_logits(each) for each in features], [self.bbox_pred(each) for each in features]


def build_rpn_head(cfg: Config, in_channels: int, num_anchors: int) -> nn.Sequential:
    """The blocks that the architecture has for the RPN, and what predicts from them.

    Raises:
        ConfigError: it has none, or fewer than MODEL.FBNET.RPN_HEAD_BLOCKS.
    """
    blocks = RPNBlocks(cfg, in_channels)
    return nn.Sequential(blocks, AnchorPredictor(blocks.out_channels, num_anchors))


class RoIHead(nn.Module):
    """Blocks of an architecture, and a last 1x1 convolution, on cut-outs of proposals: (N, C, S, S) to maps.

    Args:
        cfg, in_channels, resolution: as of every extractor.
        parts: the first of these that the architecture has gives the blocks.
        options: beginning of the config keys of the head: MODEL.FBNET.{options}_HEAD_*.
        section: of the head, for messages.

    Raises:
        ConfigError: the architecture has no such part, or an option does not fit it.
    """

    def __init__(
        self,
        cfg: Config,
        in_channels: int,
        resolution: int,
        *,
        parts: tuple[str, ...],
        options: str,
        section: str,
    ) -> None:
        super().__init__()
        architecture = architecture_of(cfg)
        blocks = _part(architecture, parts, cfg, f"{section}.FEATURE_EXTRACTOR")
        blocks = _chosen(blocks, cfg, f"MODEL.FBNET.{options}_HEAD_BLOCKS")
        blocks = _restrided(blocks, cfg, f"MODEL.FBNET.{options}_HEAD_STRIDE")
        builder = builder_from_cfg(cfg)
        width = builder.width(blocks[-1].channels)
        scale = value_of(cfg, f"MODEL.FBNET.{options}_HEAD_LAST_SCALE")
        last = builder.last_width(architecture, scale, width)
        self.head = nn.Sequential()
        self.head.blocks = builder.blocks(blocks, in_channels)
        self.head.last = builder.last(width, last)
        self.out_channels: int = last or width
        for block in blocks:
            stride = block.stride
            resolution = -(-resolution // stride) if stride > 0 else resolution * -stride
        self.out_resolution = resolution

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, out_channels, out_resolution, out_resolution) of cut-outs; N may be 0."""
        features: Tensor = self.head(x)
        return features


build_box_head = partial(RoIHead, parts=("bbox", "head"), options="DET", section="MODEL.ROI_BOX_HEAD")
build_mask_head = partial(RoIHead, parts=("mask", "head"), options="MASK", section="MODEL.ROI_MASK_HEAD")
build_keypoint_head = partial(
    RoIHead, parts=("kpts", "head"), options="KPTS", section="MODEL.ROI_KEYPOINT_HEAD"
)


def _part(architecture: Architecture, parts: tuple[str, ...], cfg: Config, key: str) -> tuple[Block, ...]:
    """The blocks of the first of ``parts`` that there is. The published code takes every block instead."""
    for part in parts:
        if blocks := architecture.blocks(part):
            return blocks
    has = ", ".join(part for part, stages in architecture.parts.items() if stages)
    raise ConfigError(
        f"architecture {architecture.name!r} ({architecture.where}) has no stages for {parts[0]}, only for "
        f"{has}; choose another head, or another architecture",
        key,
        cfg,
    )


def _chosen(blocks: tuple[Block, ...], cfg: Config, key: str) -> tuple[Block, ...]:
    """The blocks whose place in their stage is in the list at ``key``; all for an empty one."""
    places = value_of(cfg, key)
    known = {block.index for block in blocks}
    if not known.issuperset(places):
        raise ConfigError(f"the head has blocks 0 to {max(known)}", key, cfg)
    return tuple(block for block in blocks if block.index in places or not places)


def _restrided(blocks: tuple[Block, ...], cfg: Config, key: str) -> tuple[Block, ...]:
    """The blocks with the stride at ``key`` in the first; 0 leaves it."""
    stride = value_of(cfg, key)
    if stride not in (0, 1, 2):
        raise ConfigError("the stride of a head is 1 or 2, or 0 for that of its architecture", key, cfg)
    return with_first_stride(blocks, stride) if stride else blocks
