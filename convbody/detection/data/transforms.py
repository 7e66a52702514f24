"""Augmentation of training images, with torchvision's transforms v2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from convbody.detection.data.coco import Sample
from convbody.detection.transform import resized_size
from registry import Config, ConfigError

_JITTERS = ("brightness", "contrast", "saturation", "hue")


class ResizeShortSide(nn.Module):
    """Resize to a short side drawn from ``short_sides``, the long side at most ``longest``, in pixels."""

    def __init__(self, short_sides: Sequence[int], longest: int) -> None:
        super().__init__()
        self.short_sides, self.longest = list(short_sides), longest

    def forward(self, image: Tensor, target: dict[str, Any]) -> Sample:
        """Resize the image (bilinear, antialiased), and with it boxes, masks (nearest), points and areas."""
        short = self.short_sides[int(torch.randint(len(self.short_sides), ()))]
        height, width = functional.get_size(image)
        shape = resized_size(height, width, short, self.longest)
        if shape == (height, width):
            return image, target
        image, target = v2.Resize(list(shape), antialias=True)(image, target)
        return image, {**target, "area": target["area"] * (shape[0] * shape[1] / (height * width))}


class RandomFlip(nn.Module):
    """Mirror the image with probability ``p``; ``order`` says where each keypoint finds its mirror image.

    An upside-down mirror image, too, turns left hands into right ones: both directions reorder keypoints.
    """

    def __init__(self, flip: Callable[[Any], Any], p: float, order: Sequence[int]) -> None:
        super().__init__()
        self.flip, self.p, self.order = flip, p, list(order)

    def forward(self, image: Tensor, target: dict[str, Any]) -> Sample:
        """Flip the image, boxes, masks and points, or nothing."""
        if torch.rand(()) >= self.p:
            return image, target
        flipped = {k: self.flip(v) if isinstance(v, tv_tensors.TVTensor) else v for k, v in target.items()}
        if "points" in target:
            flipped["points"] = tv_tensors.wrap(flipped["points"][:, self.order], like=flipped["points"])
            flipped["visibility"] = target["visibility"][:, self.order]
        return self.flip(image), flipped


def train_transforms(cfg: Config, order: Sequence[int] = ()) -> Callable[[Tensor, dict[str, Any]], Sample]:
    """Colour jitter, resize and flips as INPUT says; draws from torch's global generator.

    It takes and gives what ``CocoDataset.load`` gives. ``order`` is the keypoints' ``flip_order``.
    """
    steps: list[nn.Module] = [*_colour_jitter(cfg)]
    steps.append(ResizeShortSide(short_sides(cfg), cfg.INPUT.MAX_SIZE_TRAIN))
    steps.append(RandomFlip(functional.horizontal_flip, cfg.INPUT.HORIZONTAL_FLIP_PROB_TRAIN, order))
    steps.append(RandomFlip(functional.vertical_flip, cfg.INPUT.VERTICAL_FLIP_PROB_TRAIN, order))
    return v2.Compose(steps)


def short_sides(cfg: Config) -> Sequence[int]:
    """Those that a training image draws from, pixels. Raises ConfigError where there are none."""
    low, high = cfg.INPUT.MIN_SIZE_RANGE_TRAIN
    if low != -1:
        if not 0 < low <= high:
            raise ConfigError("the short side's range must rise", key="INPUT.MIN_SIZE_RANGE_TRAIN", cfg=cfg)
        return range(low, high + 1)
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    sizes = (sizes,) if isinstance(sizes, int) else sizes
    if not sizes or min(sizes) < 1:
        raise ConfigError(
            "training needs at least one short side in pixels", key="INPUT.MIN_SIZE_TRAIN", cfg=cfg
        )
    return sizes


def _colour_jitter(cfg: Config) -> list[nn.Module]:
    strengths = {name: cfg.INPUT[name.upper()] for name in _JITTERS if cfg.INPUT[name.upper()]}
    for name, strength in strengths.items():
        if not 0 <= strength <= (0.5 if name == "hue" else float("inf")):
            raise ConfigError("no such strength of jitter", key=f"INPUT.{name.upper()}", cfg=cfg)
    order = [str(name).lower() for name in cfg.INPUT.JITTER_ORDER]
    if not order:
        return [v2.ColorJitter(**strengths)] if strengths else []
    if sorted(order) != sorted(_JITTERS):
        raise ConfigError(f"list each of {', '.join(_JITTERS)} once", key="INPUT.JITTER_ORDER", cfg=cfg)
    return [v2.ColorJitter(**{name: strengths[name]}) for name in order if name in strengths]
