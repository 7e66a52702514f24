"""Anchors: where they lie on each feature map, and the config keys that say so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from backbones import Backbone
from registry import Config, ConfigError
from registry.config import is_default
from registry.tree import value_of


def cell_anchors(stride: int, sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Anchors of one cell: float32 (ratios * sizes, 4) xyxy in pixels, centred at 0, ratios outermost.

    Sides are rounded as published detectors expect (Girshick's Faster R-CNN code, ``generate_anchors``): the
    square of one stride is given each ratio (height / width) in whole pixels, and then scaled to each size.
    """
    rows = []
    for ratio in ratios:
        width = round((stride * stride / ratio) ** 0.5)
        height = round(width * ratio)
        for size in sizes:
            scale = size / stride
            rows.append([-width * scale / 2, -height * scale / 2, width * scale / 2, height * scale / 2])
    return torch.tensor(rows, dtype=torch.float32)


class Anchors(AnchorGenerator):
    """Anchors in the middle of every cell of every feature map.

    Args:
        strides: of each feature map, pixels.
        sizes: side of the square anchors of each feature map, pixels.
        ratios: height over width, the same for every feature map.
    """

    def __init__(
        self, strides: Sequence[int], sizes: Sequence[Sequence[float]], ratios: Sequence[float]
    ) -> None:
        super().__init__(tuple(tuple(each) for each in sizes), (tuple(ratios),) * len(sizes))
        self.strides = tuple(strides)
        self.cell_anchors = [
            cell_anchors(stride, each, ratios) for stride, each in zip(strides, sizes, strict=True)
        ]

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Per image, the anchors (sum of H * W * A, 4) xyxy of all feature maps, at least float32."""
        first = feature_maps[0]
        # Coordinates past 256 are not exact in bfloat16, which autocast makes of the features.
        dtype = torch.promote_types(first.dtype, torch.float32)
        levels = []
        for stride, base, features in zip(self.strides, self.cell_anchors, feature_maps, strict=True):
            height, width = features.shape[-2:]
            y = (torch.arange(height, dtype=dtype, device=first.device) + 0.5) * stride
            x = (torch.arange(width, dtype=dtype, device=first.device) + 0.5) * stride
            centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")
            centres = torch.stack((centre_x, centre_y, centre_x, centre_y), dim=-1)
            levels.append((centres[:, :, None] + base.to(centres)).reshape(-1, 4))
        return [torch.cat(levels)] * len(image_list.image_sizes)


def rpn_anchors(cfg: Config, backbone: Backbone) -> Anchors:
    """The anchors of MODEL.RPN: all sizes on the only feature map, or one size on each of several."""
    rpn = cfg.MODEL.RPN
    strides = _strides(cfg, "MODEL.RPN.ANCHOR_STRIDE", backbone)
    count = len(strides)
    if not (rpn.USE_FPN or count > 1):
        return Anchors(strides, [rpn.ANCHOR_SIZES], rpn.ASPECT_RATIOS)
    _check_count(cfg, "MODEL.RPN.ANCHOR_SIZES", count)
    return Anchors(strides, [(size,) for size in rpn.ANCHOR_SIZES], rpn.ASPECT_RATIOS)


def retinanet_anchors(cfg: Config, backbone: Backbone) -> Anchors:
    """The anchors of MODEL.RETINANET: SCALES_PER_OCTAVE sizes on each feature map (its paper's section 4)."""
    node = cfg.MODEL.RETINANET
    strides = _strides(cfg, "MODEL.RETINANET.ANCHOR_STRIDES", backbone)
    _check_count(cfg, "MODEL.RETINANET.ANCHOR_SIZES", len(strides))
    octaves = [node.OCTAVE ** (i / node.SCALES_PER_OCTAVE) for i in range(node.SCALES_PER_OCTAVE)]
    sizes = [[size * octave for octave in octaves] for size in node.ANCHOR_SIZES]
    return Anchors(strides, sizes, node.ASPECT_RATIOS)


def _strides(cfg: Config, key: str, backbone: Backbone) -> tuple[int, ...]:
    """The backbone's strides; a ConfigError where ``key`` was set to others."""
    if not is_default(cfg, key) and tuple(value_of(cfg, key)) != backbone.strides:
        raise ConfigError(f"the feature maps of {_named(cfg)} have strides {backbone.strides}", key, cfg)
    return backbone.strides


def _check_count(cfg: Config, key: str, count: int) -> None:
    sizes = value_of(cfg, key)
    if len(sizes) != count:
        raise ConfigError(
            f"{len(sizes)} anchor sizes for the {count} feature map{'s'[: count > 1]} of {_named(cfg)}; "
            "give one size for each",
            key,
            cfg,
        )


def _named(cfg: Config) -> str:
    return str(cfg.MODEL.BACKBONE.CONV_BODY)
