"""Masks of an image's objects, each made only when it is looked at.

A mask of a photograph of 12 million pixels is 48 MB of float32, a hundred of them are 4.8 GB. A head's mask
of 28 x 28 cells and a run-length code take a few kilobytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

Size = tuple[int, int]
RunLengths = dict[str, Any]

_PADDING = 1  # cells of zeros around a head's mask, so that it ends smoothly at its border


class Part(NamedTuple):
    """The rectangle of an image outside of which a mask is 0.

    ``values`` (h, w), in [0, 1], lie with their first one at row ``top``, column ``left``.
    """

    top: int
    left: int
    values: Tensor

    def pasted(self, size: Size) -> Tensor:
        """The mask (H, W) of the whole image of ``size`` (H, W)."""
        whole = self.values.new_zeros(size)
        height, width = self.values.shape
        whole[self.top : self.top + height, self.left : self.left + width] = self.values
        return whole

    def above(self, threshold: float) -> Part:
        """bool: where the mask is above ``threshold``, in the smallest rectangle that has all of it."""
        inside = self.values > threshold
        rows, columns = inside.any(dim=1).nonzero(), inside.any(dim=0).nonzero()
        if not len(rows):
            return Part(self.top, self.left, inside[:0, :0])
        (first, last), (left, right) = (line[[0, -1], 0].tolist() for line in (rows, columns))
        return Part(self.top + first, self.left + left, inside[first : last + 1, left : right + 1])


class Masks(Protocol):
    """N masks of one image."""

    size: Size
    """Height and width of the image."""

    def __len__(self) -> int:
        """N."""

    def part(self, index: int) -> Part:
        """Mask ``index``."""

    def take(self, indices: Tensor) -> Masks:
        """Those of ``indices``, int64 (K,), in their order."""


class BoxMasks:
    """What a mask head gives: probabilities (N, 1, M, M), each spread over its box, (N, 4) xyxy in pixels.

    Pasted as torchvision does: He et al. 2017, section 3.1, with one cell of padding.
    """

    def __init__(self, probabilities: Tensor, boxes: Tensor, size: Size) -> None:
        self.probabilities, self.boxes, self.size = probabilities, boxes, size

    def __len__(self) -> int:
        return len(self.probabilities)

    def part(self, index: int) -> Part:
        """The probabilities of mask ``index`` in its box, as far as it is inside the image."""
        padded, scale = expand_masks(self.probabilities[index : index + 1], _PADDING)
        x1, y1, x2, y2 = expand_boxes(self.boxes[index : index + 1], scale).long()[0].tolist()
        shape = max(1, y2 - y1 + 1), max(1, x2 - x1 + 1)
        values = F.interpolate(padded, size=shape, mode="bilinear", align_corners=False)[0, 0]
        top, left = max(0, y1), max(0, x1)
        return Part(top, left, values[top - y1 : self.size[0] - y1, left - x1 : self.size[1] - x1])

    def take(self, indices: Tensor) -> BoxMasks:
        """Those of ``indices``."""
        return BoxMasks(self.probabilities[indices], self.boxes[indices], self.size)

    def cpu(self) -> BoxMasks:
        """The same in the CPU's memory, as float32."""
        return BoxMasks(self.probabilities.float().cpu(), self.boxes.float().cpu(), self.size)

    def pasted(self) -> Tensor:
        """All of them, (N, 1, H, W), as torchvision's detectors give masks: 4 N H W bytes."""
        whole = self.probabilities.new_zeros(len(self), 1, *self.size)
        for index, mask in enumerate(whole):
            top, left, values = self.part(index)
            mask[0, top : top + values.shape[0], left : left + values.shape[1]] = values
        return whole


class PastedMasks:
    """Masks that are in memory already: a tensor (N, 1, H, W) or (N, H, W)."""

    def __init__(self, masks: Tensor) -> None:
        self.masks = masks.reshape(len(masks), *masks.shape[-2:])
        self.size = (self.masks.shape[1], self.masks.shape[2])

    def __len__(self) -> int:
        return len(self.masks)

    def part(self, index: int) -> Part:
        """Mask ``index``."""
        return Part(0, 0, self.masks[index].cpu())

    def take(self, indices: Tensor) -> PastedMasks:
        """Those of ``indices``."""
        return PastedMasks(self.masks[indices])


class EncodedMasks:
    """Masks as codes, of which ``decode`` makes uint8 (H, W): COCO's compressed run lengths by default."""

    def __init__(
        self, codes: Sequence[Any], size: Size, decode: Callable[[Any], np.ndarray] = coco_mask.decode
    ) -> None:
        self.codes, self.size, self.decode = list(codes), size, decode

    def __len__(self) -> int:
        return len(self.codes)

    def part(self, index: int) -> Part:
        """Mask ``index``, uint8."""
        return Part(0, 0, torch.from_numpy(self.decode(self.codes[index])))

    def take(self, indices: Tensor) -> EncodedMasks:
        """Those of ``indices``."""
        return EncodedMasks([self.codes[index] for index in indices.tolist()], self.size, self.decode)

    def pasted(self) -> Tensor:
        """All of them, uint8 (N, H, W)."""
        whole = torch.zeros(len(self), *self.size, dtype=torch.uint8)
        for mask, code in zip(whole, self.codes, strict=True):
            mask[:] = torch.from_numpy(self.decode(code))
        return whole


def masks_of(output: Mapping[str, Any]) -> Masks | None:
    """The masks of a detector's output or of a target; None where it has none."""
    masks = output.get("masks")
    return PastedMasks(masks) if isinstance(masks, Tensor) else masks


def chosen(output: Mapping[str, Any], indices: Tensor) -> dict[str, Any]:
    """The detections of ``output`` at ``indices``, int64 (K,), in their order."""
    taken = {name: value[indices] for name, value in output.items() if isinstance(value, Tensor)}
    masks = masks_of(output)
    return taken if masks is None else {**taken, "masks": masks.take(indices)}


def encode(part: Part, size: Size) -> RunLengths:
    """COCO's compressed run-length code of ``part``, which is bool, in an image of ``size`` (H, W).

    Runs go down the columns, from the left one on, zeros first: the code starts with the zeros before the
    first pixel of the mask.
    """
    height, width = size
    inside = part.values.numpy()
    bounded = np.zeros((inside.shape[1], inside.shape[0] + 2), bool)
    bounded[:, 1:-1] = inside.T
    columns, rows = (bounded[:, 1:] != bounded[:, :-1]).nonzero()
    ends = (part.left + columns) * height + part.top + rows
    # A run that goes down to the lower edge, and on at the top of the next column, is one.
    joined = np.flatnonzero(ends[1:-1:2] == ends[2::2]) * 2 + 1
    ends = np.delete(ends, np.concatenate([joined, joined + 1]))
    counts = np.diff(ends, prepend=0, append=height * width).tolist()
    if len(counts) > 1 and not counts[-1]:
        counts.pop()
    code = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": code["counts"].decode()}
