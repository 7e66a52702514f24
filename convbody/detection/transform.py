"""From images to a normalised batch, and results back to the images' own pixels."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional

from convbody.detection.masks import BoxMasks
from registry import Config

Target = dict[str, Tensor]


def resized_size(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """(height, width) in pixels after scaling the short side to ``short``, or the long one to ``longest``,
    whichever is smaller. The ratio of the sides is kept. A ``short`` of 0 leaves the image as it is.
    """
    if not short:
        return height, width
    scale = min(short / min(height, width), longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


class DetectionTransform(GeneralizedRCNNTransform):
    """torchvision's transform with the published colour conventions, and resizing in evaluation alone.

    Called on a list of RGB images (3, H, W), floats in [0, 1] or uint8, and their targets, it gives an
    ImageList, padded at the right and at the bottom with zeros, and the targets. In training the data
    pipeline has resized already.
    ``postprocess`` maps boxes, masks and keypoints back to the images' own sizes.
    """

    def __init__(self, cfg: Config, size_divisibility: int) -> None:
        super().__init__(
            min_size=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
            image_mean=list(cfg.INPUT.PIXEL_MEAN),
            image_std=list(cfg.INPUT.PIXEL_STD),
            size_divisible=cfg.DATALOADER.SIZE_DIVISIBILITY or size_divisibility,
        )
        self.to_bgr255 = bool(cfg.INPUT.TO_BGR255)
        self.mirrored = False

    def of_view(self, short: int, longest: int, mirrored: bool) -> DetectionTransform:
        """The same with other sizes for testing, pixels; with ``mirrored``, left and right change places."""
        other = copy.copy(self)
        other.min_size, other.max_size, other.mirrored = (short,), longest, mirrored
        return other

    def normalize(self, image: Tensor) -> Tensor:
        """(image - mean) / std, in the channel order and range of PIXEL_MEAN; uint8 becomes floats first."""
        if not image.is_floating_point():
            image = functional.to_dtype(image, torch.float32, scale=True)
        mean, std = (image.new_tensor(values)[:, None, None] for values in (self.image_mean, self.image_std))
        # One copy, and the rest in place: of a photograph of 12 million pixels a copy is 144 MB.
        image = image.flip([0] * self.to_bgr255 + [2] * self.mirrored)
        return (image.mul_(255) if self.to_bgr255 else image).sub_(mean).div_(std)

    def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        """The image at the size for testing; in training as it is."""
        if self.training:
            return image, target
        height, width = image.shape[-2:]
        size = resized_size(height, width, self.min_size[-1], self.max_size)
        if size != (height, width):
            image = F.interpolate(
                image[None], size=size, mode="bilinear", align_corners=False, antialias=True
            )[0]
        return image, None

    def postprocess(
        self,
        result: list[dict[str, Any]],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Any]]:
        """Detections in pixels of the images' own sizes; masks become BoxMasks, which are not pasted yet."""
        masks = [each.pop("masks", None) for each in result]
        results = super().postprocess(result, image_shapes, original_image_sizes)
        for each, mask, size in zip(results, masks, original_image_sizes, strict=True):
            if mask is not None:
                each["masks"] = BoxMasks(mask, each["boxes"], size)
        return results
