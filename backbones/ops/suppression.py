"""Non-maximum suppression that keeps what torchvision's keeps, box for box and in its order."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import Library, register_fake

from backbones.ops.checks import check_devices
from backbones.ops.library import absent

_COMPILED = absent("cpu") is None

#: Coordinates up to which torchvision moves groups apart instead of taking one after the other. Moved boxes
#: round otherwise, and so may what is kept.
_FEW = 4000


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices (K,) of the boxes that no better one overlaps by more than ``iou_threshold``; best first.

    ``torchvision.ops.nms`` serves on other devices than the CPU, for what it refuses, and where the
    extension is absent.

    Args:
        boxes: (N, 4) xyxy, float64 or float32.
        scores: (N,), of the type of the boxes. Equal ones are taken in their order, NaN before all others.
        iou_threshold: intersection over union.

    Raises:
        ArgumentError: tensors on different devices.
    """
    check_devices("nms", boxes=boxes, scores=scores)
    if not _serves(boxes, scores):
        from torchvision import ops

        kept: Tensor = ops.nms(boxes, scores, iou_threshold)
        return kept
    return _best(boxes, scores, None, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """``nms`` within each of the groups that ``idxs`` (N,), integers, tells apart; threads share the groups.

    As ``torchvision.ops.batched_nms``, which serves where ``torchvision.ops.nms`` would. Of no boxes none
    are kept, whatever the rest is.

    Raises:
        ArgumentError: tensors on different devices.
    """
    if boxes.numel() == 0:
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    check_devices("batched_nms", boxes=boxes, scores=scores, idxs=idxs)
    if not _serves(boxes, scores):
        from torchvision import ops

        kept: Tensor = ops.batched_nms(boxes, scores, idxs, iou_threshold)
        return kept
    if boxes.numel() <= _FEW:
        apart = idxs.to(boxes) * (boxes.max() + 1)
        return _best(boxes + apart[:, None], scores, None, iou_threshold)
    keep = _best(boxes, scores, idxs.long(), iou_threshold).sort().values
    return keep[scores[keep].sort(descending=True).indices]  # unstable: ties fall as torchvision's


def _serves(boxes: Tensor, scores: Tensor) -> bool:
    return (
        _COMPILED
        and boxes.device.type == scores.device.type == "cpu"
        and boxes.dtype == scores.dtype
        and boxes.dtype in (torch.float32, torch.float64)
        and boxes.shape == (len(scores), 4)
        and scores.dim() == 1
    )


def _best(boxes: Tensor, scores: Tensor, groups: Tensor | None, threshold: float) -> Tensor:
    order = torch.sort(scores, dim=0, descending=True, stable=True).indices
    groups = None if groups is None else groups[order]
    keep: Tensor = torch.ops.convbody.nms_keep(boxes.detach()[order], groups, threshold)
    return order[keep]


def _fake(boxes: Tensor, groups: Tensor | None, threshold: float) -> Tensor:
    check_devices("nms", boxes=boxes, groups=groups)
    return boxes.new_empty(boxes.shape[0], dtype=torch.bool)


_library = Library("convbody", "FRAGMENT")
if _COMPILED:
    register_fake("convbody::nms_keep", _fake, lib=_library)
