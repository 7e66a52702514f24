"""Test-time augmentation of two-stage detectors: TEST.BBOX_AUG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backbones import Backbone
from convbody.detection.heads.rcnn import GeneralizedRCNN
from convbody.detection.heads.roi import Candidates
from convbody.detection.inputs import check_images
from registry import Config, ConfigError

Size = tuple[int, int]


@dataclass(frozen=True)
class View:
    """One more way to look at an image: its short and its longest side, pixels; mirrored or not."""

    short: int
    longest: int
    flip: bool


def views_of(cfg: Config) -> list[View]:
    """The views that TEST.BBOX_AUG adds to the image at INPUT.MIN_SIZE_TEST, in the published order.

    Raises:
        ConfigError: a scale that is no whole number of pixels.
    """
    node = cfg.TEST.BBOX_AUG
    for scale in node.SCALES:
        if not isinstance(scale, int) or scale < 1:
            raise ConfigError(
                f"a scale is a short side in whole pixels, not {scale!r}", "TEST.BBOX_AUG.SCALES", cfg
            )
    views = [View(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, flip=True)] if node.H_FLIP else []
    for scale in node.SCALES:
        flips = (False, True) if node.SCALE_H_FLIP else (False,)
        views += [View(scale, node.MAX_SIZE, flip) for flip in flips]
    return views


def flip_boxes(boxes: Tensor, width: float) -> Tensor:
    """Boxes (..., 4) xyxy as they lie in the mirror image, ``width`` pixels wide. Its own inverse."""
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return torch.stack((width - x2, y1, width - x1, y2), dim=-1)


class AugmentedRCNN(GeneralizedRCNN):
    """A two-stage detector that in evaluation looks at every image several times.

    Boxes with their scores, of every view and before any is dropped, are brought to the coordinates of the
    first, which is the image as it would be tested without augmentation; threshold, non-maximum suppression
    and top-n are applied once to all of them. Masks and keypoints are read from the first view.
    """

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        self.views = views_of(cfg)

    def detections(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Detections from all views together; masks are not pasted yet."""
        check_images(images, next(self.parameters()).dtype)
        batch, _ = self.transform(images)
        features = self.backbone(batch.tensors)
        found = self.candidates(batch, features)
        for view in self.views:
            seen = self._look(images, view, batch.image_sizes)
            found = [first.joined(other) for first, other in zip(found, seen, strict=True)]
        results = self.roi_heads.finish(features, found, batch.image_sizes)
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        return self.transform.postprocess(results, batch.image_sizes, sizes)

    def _look(self, images: Sequence[Tensor], view: View, first_sizes: Sequence[Size]) -> list[Candidates]:
        """Candidates of one view, in pixels of images of ``first_sizes`` (height, width)."""
        batch, _ = self.transform.of_view(view.short, view.longest, view.flip)(images)
        seen = []
        candidates = self.candidates(batch, self.backbone(batch.tensors))
        for (boxes, scores), size, first in zip(candidates, batch.image_sizes, first_sizes, strict=True):
            upright = flip_boxes(boxes, size[1]) if view.flip else boxes
            height, width = (of_first / of_view for of_first, of_view in zip(first, size, strict=True))
            seen.append(Candidates(upright * boxes.new_tensor([width, height, width, height]), scores))
        return seen
