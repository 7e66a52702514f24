"""The batch that both sides are given."""

from __future__ import annotations

import torch

from convbody.compare.record import Batch
from convbody.detection.inputs import TargetNeeds
from registry import ConvbodyError


def random_images(count: int, height: int, width: int, seed: int, channels: int = 3) -> Batch:
    """Images (count, channels, height, width), float32, standard normal.

    Raises ConvbodyError for a size below 1.
    """
    if min(count, height, width) < 1:
        raise ConvbodyError(f"a batch of {count} images of {height}x{width} pixels is none; give 1 or more")
    generator = torch.Generator().manual_seed(seed)
    return {"images": torch.randn(count, channels, height, width, generator=generator)}


def random_scenes(count: int, height: int, width: int, needs: TargetNeeds, seed: int) -> Batch:
    """Images in [0, 1], and in each two objects with what the losses of a detector need of them."""
    batch = {"images": random_images(count, height, width, seed)["images"].sigmoid()}
    boxes = torch.tensor([[0.1, 0.15, 0.6, 0.55], [0.4, 0.3, 0.95, 0.9]])
    boxes = boxes * torch.tensor([width, height, width, height])
    for index in range(count):
        target = {"boxes": boxes, "labels": torch.tensor([1, (needs.num_classes or 2) - 1])}
        if needs.masks:
            target["masks"] = torch.zeros(2, height, width, dtype=torch.uint8)
            for mask, (left, top, right, bottom) in zip(target["masks"], boxes.long().tolist(), strict=True):
                mask[top:bottom, left:right] = 1
        if needs.keypoints:
            along = torch.linspace(0.1, 0.9, needs.keypoints)[:, None]
            points = boxes[:, None, :2] * (1 - along) + boxes[:, None, 2:] * along
            target["keypoints"] = torch.cat([points, torch.full((*points.shape[:2], 1), 2.0)], dim=2)
        batch |= {f"targets.{index}.{key}": value for key, value in target.items()}
    return batch
