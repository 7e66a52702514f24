"""What a detector checks of images and targets before it runs: a mistake is one line that says where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from registry import ConvbodyError

Target = dict[str, Tensor]

# Images in [0, 255] are the likely mistake; noise and colour jitter leave [0, 1] by little.
_LARGEST_VALUE = 32.0


@dataclass(frozen=True)
class TargetNeeds:
    """What a detector's losses need of a target.

    Attributes:
        num_classes: classes, the background included; None where labels play no part.
        masks: whether masks uint8 (N, H, W) are needed.
        keypoints: keypoints of each object, (N, keypoints, 3); 0 where none are needed.
        class_key: the config key that the number of classes is from; as it is, for a detector without one.
    """

    num_classes: int | None
    masks: bool = False
    keypoints: int = 0
    class_key: str = "MODEL.META_ARCHITECTURE"


class InputError(ConvbodyError, ValueError):
    """An image or a target that a detector cannot use; the message names its index in the batch."""


def check_images(images: Sequence[Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Raises InputError unless ``images`` are tensors (3, H, W), RGB, on one device.

    ``dtype`` is that of the model's weights. Images are of it, in [0, 1]; a float32 model takes uint8, too.
    """
    if len(images) == 0:
        raise InputError("the batch has no image")
    for index, image in enumerate(images):
        if not isinstance(image, Tensor):
            raise InputError(f"image {index} is a {type(image).__name__}; give a tensor (3, H, W)")
        if image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise InputError(f"image {index} has shape {tuple(image.shape)}; give (3, H, W), RGB")
        if not image.is_floating_point() and image.dtype != torch.uint8:
            raise InputError(f"image {index} is {_name(image.dtype)}; give floats in [0, 1] or uint8, RGB")
        if image.dtype != dtype and (image.dtype, dtype) != (torch.uint8, torch.float32):
            raise InputError(f"image {index} is {_name(image.dtype)}, the model {_name(dtype)}; convert one")
    floats = {index: image for index, image in enumerate(images) if image.is_floating_point()}
    if not floats:
        return
    largest = torch.stack([torch.stack(image.aminmax()).abs().amax() for image in floats.values()])
    if bool((largest <= _LARGEST_VALUE).all()):  # False for NaN, too
        return
    for index, value in zip(floats, largest.tolist(), strict=True):
        if not value <= _LARGEST_VALUE:
            problem = f"values up to {value:g}" if value < float("inf") else "a value that is not finite"
            raise InputError(f"image {index} has {problem}; give floats in [0, 1], RGB")


def check_targets(images: Sequence[Tensor], targets: Sequence[Target] | None, needs: TargetNeeds) -> None:
    """Raises InputError unless every image has a target that the losses can use.

    Args:
        images: the batch, as given to the model.
        targets: per image boxes (N, 4) xyxy, float, labels (N,), int64, from 1 to num_classes - 1, and what
            ``needs`` says.
    """
    if targets is None:
        raise InputError("training needs targets: one dict with boxes and labels per image")
    if len(targets) != len(images):
        raise InputError(f"there are {len(images)} images and {len(targets)} targets")
    for index, (image, target) in enumerate(zip(images, targets, strict=True)):
        _check_shapes(index, image, target, needs)
    boxes = torch.cat([target["boxes"] for target in targets])
    labels = torch.cat([target["labels"] for target in targets])
    # One look at the batch, so that a GPU is waited for once; the culprit is searched when there is one.
    bad_box = ~((boxes[:, 2:] > boxes[:, :2]).all(dim=1) & boxes.isfinite().all(dim=1))
    bad_label = labels < 1
    if needs.num_classes is not None:
        bad_label |= labels >= needs.num_classes
    bad = bad_box | bad_label
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        where = _describe_row(targets, first)
        if bad_box[first]:
            raise InputError(f"{where}: box {boxes[first].tolist()} is not finite with x1 < x2 and y1 < y2")
        raise InputError(f"{where}: label {int(labels[first])} is outside {_label_range(needs)}")


def _check_shapes(index: int, image: Tensor, target: Target, needs: TargetNeeds) -> None:
    if not isinstance(target, Mapping):
        raise InputError(f"target {index} is a {type(target).__name__}; give a dict with boxes and labels")
    extras = [field for field in ("masks", "keypoints") if getattr(needs, field)]
    for field in ("boxes", "labels", *extras):
        if not isinstance(target.get(field), Tensor):
            raise InputError(f"target {index} has no tensor {field!r}, which this model trains on")
    boxes, labels = target["boxes"], target["labels"]
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise InputError(f"target {index}: boxes are {_describe(boxes)}; give floats (N, 4), xyxy")
    if labels.dim() != 1 or labels.dtype != torch.int64:
        raise InputError(f"target {index}: labels are {_describe(labels)}; give int64 (N,)")
    for field in ("labels", *extras):
        if len(target[field]) != len(boxes):
            raise InputError(f"target {index} has {len(boxes)} boxes and {len(target[field])} {field}")
    if needs.masks and target["masks"].shape[1:] != image.shape[1:]:
        size = f"{image.shape[1]}, {image.shape[2]}"
        raise InputError(
            f"target {index}: masks are {_describe(target['masks'])}; give (N, {size}), the image's size"
        )
    if needs.keypoints and target["keypoints"].shape[1:] != (needs.keypoints, 3):
        raise InputError(
            f"target {index}: keypoints are {_describe(target['keypoints'])}; "
            f"give (N, {needs.keypoints}, 3), as MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES says"
        )


def _describe_row(targets: Sequence[Target], row: int) -> str:
    """``target 1, object 0`` for a row of the batch's boxes."""
    for index, target in enumerate(targets):
        if row < len(target["boxes"]):
            return f"target {index}, object {row}"
        row -= len(target["boxes"])
    raise IndexError(row)


def _label_range(needs: TargetNeeds) -> str:
    if needs.num_classes is None:
        return "1, 2, ..."
    return f"1..{needs.num_classes - 1} (NUM_CLASSES is {needs.num_classes}, the background included)"


def _describe(tensor: Tensor) -> str:
    return f"{_name(tensor.dtype)} {tuple(tensor.shape)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
