"""RoIAlign over the feature maps that POOLER_SCALES names."""

from __future__ import annotations

from math import log2

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from backbones import Backbone
from backbones.ops import roi_align
from backbones.ops.regions import MOST_SAMPLES
from registry import Config, ConfigError
from registry.config import is_default
from registry.tree import value_of


class Pooler(MultiScaleRoIAlign):
    """torchvision's MultiScaleRoIAlign with the backbone's true strides, and this project's operator.

    torchvision guesses the scales from the first batch it sees, padding apart, and keeps them.

    Args:
        levels: indices of the feature maps that are read.
        strides: their strides, pixels.
        resolution: side of a cut-out, cells.
        sampling_ratio: samples per cell and direction; 0: as many as the box covers.
    """

    def __init__(self, levels: list[int], strides: list[int], resolution: int, sampling_ratio: int) -> None:
        super().__init__([str(level) for level in levels], resolution, sampling_ratio)
        self.scales = [1.0 / stride for stride in strides]
        self.map_levels = initLevelMapper(int(log2(strides[0])), int(log2(strides[-1])))

    def forward(self, features: list[Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Cut-outs (sum of N, C, resolution, resolution) of each image's ``boxes``, (N, 4) xyxy in pixels."""
        maps = [feature for level, feature in enumerate(features) if str(level) in self.featmap_names]
        images = [box.new_full((len(box), 1), image) for image, box in enumerate(boxes)]
        rois = torch.cat([torch.cat(images), torch.cat(boxes)], dim=1)
        if len(maps) == 1:
            return roi_align(maps[0], rois, self.output_size, self.scales[0], self.sampling_ratio)
        pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], *self.output_size)
        levels = self.map_levels(boxes)
        for level, (feature, scale) in enumerate(zip(maps, self.scales, strict=True)):
            rows = torch.where(levels == level)[0]
            cut_outs = roi_align(feature, rois[rows], self.output_size, scale, self.sampling_ratio)
            pooled[rows] = cut_outs.to(pooled.dtype)  # under autocast, maps may differ in type
        return pooled


def build_pooler(cfg: Config, head: str, backbone: Backbone) -> Pooler:
    """The pooler of ``head``, a section such as "MODEL.ROI_BOX_HEAD".

    Raises:
        ConfigError: a scale that is no feature map's, or more samples than RoIAlign takes.
    """
    node = value_of(cfg, head)
    if node.POOLER_SAMPLING_RATIO > MOST_SAMPLES:
        raise ConfigError(
            f"a cell takes at most {MOST_SAMPLES} samples per direction; 2 is usual, 0 is one for each pixel",
            f"{head}.POOLER_SAMPLING_RATIO",
            cfg,
        )
    key = f"{head}.POOLER_SCALES"
    if is_default(cfg, key):
        levels = _default_levels(backbone)
    else:
        levels = [_level_of(scale, backbone, cfg, key) for scale in node.POOLER_SCALES]
    strides = [backbone.strides[level] for level in levels]
    return Pooler(levels, strides, node.POOLER_RESOLUTION, node.POOLER_SAMPLING_RATIO)


def _default_levels(backbone: Backbone) -> list[int]:
    """All feature maps up to stride 32, or the only one. A pyramid's coarser maps serve proposals alone."""
    levels = [level for level, stride in enumerate(backbone.strides) if stride <= 32]
    return levels or [0]


def _level_of(scale: float, backbone: Backbone, cfg: Config, key: str) -> int:
    for level, stride in enumerate(backbone.strides):
        if abs(scale * stride - 1) < 1e-3:
            return level
    raise ConfigError(
        f"{cfg.MODEL.BACKBONE.CONV_BODY} has no feature map of scale {scale:g}; "
        f"its strides are {backbone.strides}",
        key,
        cfg,
    )
