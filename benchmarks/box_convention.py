#!/usr/bin/env python
"""What the boxes of maskrcnn-benchmark's lineage would change: the same trained detector, read both ways.

    python benchmarks/box_convention.py --config-file runs/synthetic/config.yaml [KEY VALUE ...]

Code of that lineage means by (x1, y1, x2, y2) the first and the last pixel of a box, one pixel less to the
right and at the bottom than the edges that are meant here. Anchors, box coding and overlaps agree once one
is added. What remains, and is measured here on DATASETS.TEST: cut-outs end one pixel earlier, boxes are
clipped to pixels and not to edges, resizing scales the last pixel, and boxes that overlap by exactly the
threshold suppress each other on a CPU.

Without --weights, the best checkpoint in OUTPUT_DIR is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import box_iou

from convbody import cli
from convbody.detection.data import build_test_dataset
from convbody.detection.evaluation import evaluate
from convbody.detection.heads import roi
from convbody.detection.heads.pooler import Pooler
from convbody.detection.model import Detector
from convbody.detection.trained import load_trained
from convbody.detection.transform import DetectionTransform
from registry import ConvbodyError

_LAST_PIXEL = torch.tensor([0.0, 0.0, 1.0, 1.0])


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Indices (K,), best first, of what is left when an overlap of exactly ``threshold`` suppresses too."""
    order = scores.argsort(descending=True)
    overlapping = (box_iou(boxes, boxes) >= threshold) & (labels[:, None] == labels)
    alive = torch.ones(len(boxes), dtype=torch.bool)
    kept = []
    for index in order.tolist():
        if alive[index]:
            kept.append(index)
            alive &= ~overlapping[index]
    return torch.tensor(kept, dtype=torch.int64)


def clip_to_pixels(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) whose first and last pixels lie in an image of ``size`` (height, width)."""
    height, width = size
    limit = torch.tensor([width, height, width, height], dtype=boxes.dtype)
    return boxes.clamp(min=_LAST_PIXEL).minimum(limit - 1 + _LAST_PIXEL)


@contextmanager
def published_reading(model: Detector) -> Iterator[None]:
    """Within it, ``model`` reads and gives boxes as maskrcnn-benchmark does on a CPU."""
    pool, postprocess = Pooler.forward, DetectionTransform.postprocess

    def pool_pixels(self: Pooler, features: Any, boxes: list[Tensor], sizes: Any) -> Tensor:
        return pool(self, features, [box - _LAST_PIXEL for box in boxes], sizes)

    def scale_pixels(self: DetectionTransform, results: Any, sizes: Any, originals: Any) -> Any:
        for result in results:
            result["boxes"] = result["boxes"] - _LAST_PIXEL
        results = postprocess(self, results, sizes, originals)
        for result in results:
            result["boxes"] = result["boxes"] + _LAST_PIXEL
        return results

    if not isinstance(model.roi_heads, RoIHeads):
        raise ConvbodyError("this compares two-stage detectors; choose such a config")
    with ExitStack() as stack:
        stack.enter_context(patch.object(Pooler, "forward", pool_pixels))
        stack.enter_context(patch.object(DetectionTransform, "postprocess", scale_pixels))
        stack.enter_context(patch.object(roi, "clip_boxes_to_image", clip_to_pixels))
        stack.enter_context(patch.object(roi, "batched_nms", suppress))
        yield


def moved(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> tuple[Tensor, int]:
    """Of each of our boxes, how far (pixels) its farthest edge is from the best match of the same image and
    class; and how many have none that overlaps by half.
    """
    distances, lost = [], 0
    for entry in ours:
        same = [
            other["bbox"]
            for other in theirs
            if (other["image_id"], other["category_id"]) == (entry["image_id"], entry["category_id"])
        ]
        box, others = _corners([entry["bbox"]]), _corners(same)
        overlap, best = box_iou(box, others)[0].max(dim=0) if same else (torch.tensor(0.0), torch.tensor(0))
        if overlap < 0.5:
            lost += 1
        else:
            distances.append((box[0] - others[best]).abs().max())
    return torch.stack(distances) if distances else torch.zeros(0), lost


def _corners(boxes: list[list[float]]) -> Tensor:
    x, y, width, height = torch.tensor(boxes).reshape(-1, 4).unbind(dim=1)
    return torch.stack((x, y, x + width, y + height), dim=1)


def main() -> None:
    parser = cli.common_parser(__doc__)
    parser.add_argument("--weights", metavar="FILE", help="weights of the whole detector")
    parser.add_argument("--least-score", type=float, default=0.5, help="of the boxes whose move is measured")
    args = cli.parse(parser)
    cfg = cli.load_config(args)
    trained = load_trained(cfg, args.weights)
    model = trained.model.cpu()
    for name in cfg.DATASETS.TEST:
        dataset = build_test_dataset(cfg, name, trained.known)
        ours = evaluate(model, dataset, cfg, name)
        with published_reading(model):
            theirs = evaluate(model, dataset, cfg, name)
        print(f"{name}: {len(dataset)} images")
        for metric, value in ours.metrics.items():
            if metric.endswith(("/AP", "/AP50", "/AP75")):
                print(f"  {metric:12} {value:.4f} with edges, {theirs.metrics[metric]:.4f} with pixels")
        sure = [entry for entry in ours.predictions if entry["score"] >= args.least_score]
        distances, lost = moved(sure, theirs.predictions)
        print(f"  of {len(sure)} boxes of score {args.least_score} or more, {lost} have no counterpart")
        if len(distances):
            median, most = distances.quantile(0.5), distances.quantile(0.95)
            print(f"  the others' edges move by {median:.2f} px (median), {most:.2f} px (95 of 100)")


if __name__ == "__main__":
    cli.run(main)
