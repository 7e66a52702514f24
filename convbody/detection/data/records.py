"""What a COCO file holds, as typed records: everything behind the reading of the file uses these alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Box = tuple[float, float, float, float]

#: An id as a COCO file may write it: a whole number of any size, or text.
OriginalId = int | str


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image: its id, its file in the image folder, and its size in pixels."""

    id: int
    file_name: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Category:
    """One class: id, name, the names of its keypoints, and their OKS sigmas where the file has them."""

    id: int
    name: str
    keypoints: tuple[str, ...] = ()
    keypoint_sigmas: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class RunLengths:
    """A mask as COCO's compressed run-length code of an image of ``height`` x ``width``."""

    height: int
    width: int
    counts: bytes


#: A mask as the outlines of its parts, each float64 (2 P,): x, y, x, y ... in pixels.
Polygons = tuple[np.ndarray, ...]


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object of an image.

    ``bbox`` is left, top, width, height and ``area`` is in square pixels. ``segmentation`` is None without a
    mask, ``keypoints`` float64 (K, 3), x, y and visibility 0, 1 or 2, or None where nobody labelled them;
    ``num_keypoints`` counts those that are labelled, as the file says or as they are.
    """

    image_id: int
    category_id: int
    bbox: Box
    area: float
    iscrowd: bool
    segmentation: Polygons | RunLengths | None = None
    keypoints: np.ndarray | None = None
    num_keypoints: int = 0
