"""Anchors: where they lie on each feature map, and the config keys that say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

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


def exact_cell_anchors(stride: int, sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Like :func:`cell_anchors`, but of area size * size and of the ratio itself, whatever the stride."""
    sides = [(size / ratio**0.5, size * ratio**0.5) for ratio in ratios for size in sizes]
    return torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in sides], dtype=torch.float32)


def whole_cell_anchors(stride: int, sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Like :func:`exact_cell_anchors`, for sizes cut to whole pixels, and with corners on whole pixels."""
    return exact_cell_anchors(stride, [int(size) for size in sizes], ratios).round()


class Convention(NamedTuple):
    """How a code base lays out anchors; weights trained with one are off by half a cell under another."""

    cell: Callable[[int, Sequence[float], Sequence[float]], Tensor]
    offset: float  # from a cell's first corner to the centres of its anchors, strides
    stretched: bool  # the stride is what the padded image and the feature map make it, in whole pixels


#: MODEL.ANCHOR_CONVENTION -> what it means.
CONVENTIONS = {
    "published": Convention(cell_anchors, 0.5, stretched=False),
    "detectron2": Convention(exact_cell_anchors, 0.0, stretched=False),
    "torchvision": Convention(whole_cell_anchors, 0.0, stretched=True),
}


class Anchors(AnchorGenerator):
    """Anchors in every cell of every feature map.

    Args:
        strides: of each feature map, pixels.
        sizes: side of the square anchors of each feature map, pixels.
        ratios: height over width, the same for every feature map.
        convention: where in its cell an anchor lies, and how its sides are rounded.
    """

    def __init__(
        self,
        strides: Sequence[int],
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float],
        convention: Convention = CONVENTIONS["published"],
    ) -> None:
        super().__init__(tuple(tuple(each) for each in sizes), (tuple(ratios),) * len(sizes))
        self.strides = tuple(strides)
        self.convention = convention
        self.cell_anchors = [
            convention.cell(stride, each, ratios) for stride, each in zip(strides, sizes, strict=True)
        ]

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Per image, the anchors (sum of H * W * A, 4) xyxy of all feature maps, at least float32."""
        first = feature_maps[0]
        # Coordinates past 256 are not exact in bfloat16, which autocast makes of the features.
        dtype = torch.promote_types(first.dtype, torch.float32)
        padded = image_list.tensors.shape[-2:]
        levels = []
        for stride, base, features in zip(self.strides, self.cell_anchors, feature_maps, strict=True):
            y, x = (
                (torch.arange(count, dtype=dtype, device=first.device) + self.convention.offset)
                * (size // count if self.convention.stretched else stride)
                for size, count in zip(padded, features.shape[-2:], strict=True)
            )
            centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")
            centres = torch.stack((centre_x, centre_y, centre_x, centre_y), dim=-1)
            levels.append((centres[:, :, None] + base.to(centres)).reshape(-1, 4))
        return [torch.cat(levels)] * len(image_list.image_sizes)


def anchor_convention(cfg: Config) -> Convention:
    """What MODEL.ANCHOR_CONVENTION names.

    Raises:
        ConfigError: there is no such convention.
    """
    key = "MODEL.ANCHOR_CONVENTION"
    name = cfg.MODEL.ANCHOR_CONVENTION
    if name not in CONVENTIONS:
        raise ConfigError(f"choose one of {', '.join(CONVENTIONS)}, not {name!r}", key, cfg)
    return CONVENTIONS[name]


def rpn_anchors(cfg: Config, backbone: Backbone) -> Anchors:
    """The anchors of MODEL.RPN: all sizes on the only feature map, or one size on each of several."""
    rpn = cfg.MODEL.RPN
    strides = _strides(cfg, "MODEL.RPN.ANCHOR_STRIDE", backbone)
    count = len(strides)
    if not (rpn.USE_FPN or count > 1):
        return Anchors(strides, [rpn.ANCHOR_SIZES], rpn.ASPECT_RATIOS, anchor_convention(cfg))
    _check_count(cfg, "MODEL.RPN.ANCHOR_SIZES", count)
    sizes = [(size,) for size in rpn.ANCHOR_SIZES]
    return Anchors(strides, sizes, rpn.ASPECT_RATIOS, anchor_convention(cfg))


def retinanet_anchors(cfg: Config, backbone: Backbone) -> Anchors:
    """The anchors of MODEL.RETINANET: SCALES_PER_OCTAVE sizes on each feature map (its paper's section 4)."""
    node = cfg.MODEL.RETINANET
    strides = _strides(cfg, "MODEL.RETINANET.ANCHOR_STRIDES", backbone)
    _check_count(cfg, "MODEL.RETINANET.ANCHOR_SIZES", len(strides))
    octaves = [node.OCTAVE ** (i / node.SCALES_PER_OCTAVE) for i in range(node.SCALES_PER_OCTAVE)]
    sizes = [[size * octave for octave in octaves] for size in node.ANCHOR_SIZES]
    return Anchors(strides, sizes, node.ASPECT_RATIOS, anchor_convention(cfg))


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
