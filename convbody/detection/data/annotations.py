"""COCO annotation files: reading them, and decoding one annotation's mask, box and keypoints."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from convbody.data.errors import DataError
from convbody.detection.data.records import Annotation, Box, Category, ImageRecord


def read_annotations(path: Path) -> dict[str, Any]:
    """The content of a COCO file; a file that only lists images gets an empty list of annotations.

    Raises DataError where it is no JSON, or has no list of images or categories.
    """
    try:
        data = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"annotation file {path} is not JSON: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read annotation file {path}: {error.strerror}") from error
    for key in ("images", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise DataError(f'annotation file {path} has no list "{key}", so it is not in COCO\'s format')
    data.setdefault("annotations", [])
    return data


def index_annotations(data: dict[str, Any]) -> COCO:
    """pycocotools' index over the content of a COCO file."""
    coco = COCO()
    coco.dataset = data
    with contextlib.redirect_stdout(None):  # it prints its progress
        coco.createIndex()
    return coco


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The mask uint8 (height, width) of polygons, of a compressed, or of an uncompressed run-length code.

    Raises ValueError where it is none of them or does not fit the image.
    """
    if isinstance(segmentation, Mapping):
        size = segmentation.get("size")
        if list(size or ()) != [height, width]:
            raise ValueError(f"run-length code of size {size} in an image of {[height, width]}")
        # pycocotools would fill what a short code does not reach with whatever is in memory.
        if sum(run_lengths(segmentation["counts"])) != height * width:
            raise ValueError("run-length code that does not cover its image")
        if not isinstance(segmentation["counts"], str | bytes):
            segmentation = coco_mask.frPyObjects(dict(segmentation), height, width)
        return coco_mask.decode(segmentation)
    if not isinstance(segmentation, Sequence) or not segmentation:
        raise ValueError("no polygon and no run-length code")
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))


def run_lengths(counts: Any) -> list[int]:
    """The lengths of the runs, zeros first, of COCO's run-length code, compressed or not.

    Compressed, a number is a row of characters from "0" on with five bits each, lowest first, a sixth bit
    that says whether more follow, and the sign in the last one's fifth; from the fourth on, a number is the
    difference to the one before the previous. Raises ValueError for anything else.
    """
    if isinstance(counts, str | bytes):
        counts = _decompress(counts.encode() if isinstance(counts, str) else counts)
    if not isinstance(counts, Sequence) or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise ValueError("no run-length code")
    return list(counts)


def _decompress(code: bytes) -> list[int]:
    runs: list[int] = []
    number = shift = 0
    for byte in code:
        bits = byte - ord("0")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number = shift = 0
    return runs


def read_categories(path: Path) -> tuple[Category, ...]:
    """The categories of a COCO file, in its order. Raises DataError as ``read_annotations`` does."""
    return tuple(map(category_record, read_annotations(path)["categories"]))


def image_record(image: Mapping[str, Any]) -> ImageRecord:
    """The record of an entry of a file's list of images."""
    return ImageRecord(int(image["id"]), str(image["file_name"]), int(image["width"]), int(image["height"]))


def category_record(category: Mapping[str, Any]) -> Category:
    """The record of an entry of a file's list of categories."""
    sigmas = category.get("keypoint_sigmas")
    return Category(
        int(category["id"]),
        str(category["name"]),
        tuple(map(str, category.get("keypoints") or ())),
        None if sigmas is None else tuple(map(float, sigmas)),
    )


def annotation_record(annotation: Mapping[str, Any]) -> Annotation:
    """The record of an entry of a file's list of annotations."""
    left, top, width, height = map(float, annotation["bbox"])
    keypoints = annotation.get("keypoints") or ()
    points = np.reshape(np.asarray(keypoints, np.float64), (-1, 3)) if keypoints else None
    labelled = 0 if points is None else int((points[:, 2] > 0).sum())
    return Annotation(
        image_id=int(annotation["image_id"]),
        category_id=int(annotation["category_id"]),
        bbox=(left, top, width, height),
        area=float(annotation.get("area", width * height)),
        iscrowd=bool(annotation.get("iscrowd", 0)),
        segmentation=annotation.get("segmentation"),
        keypoints=points,
        num_keypoints=int(annotation.get("num_keypoints", labelled)),
    )


def clip_box(box: Box, height: int, width: int) -> Box:
    """A box (left, top, width, height) as (left, top, right, bottom) in pixels, cut at the image's border."""
    left, top, box_width, box_height = box
    right, bottom = left + box_width, top + box_height
    return max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))


def has_area(box: Box) -> bool:
    """Whether anything of a clipped box is left."""
    return box[2] > box[0] and box[3] > box[1]


def flip_order(names: Sequence[str]) -> list[int]:
    """Where each keypoint finds its mirror image: ``left_eye`` and ``right_eye`` change places."""
    swap = {"left": "right", "right": "left"}
    mirrored = ["_".join(swap.get(word, word) for word in name.split("_")) for name in names]
    return [names.index(name) if name in names else position for position, name in enumerate(mirrored)]
