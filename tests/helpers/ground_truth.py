"""Ground truth for the scorer out of entries as COCO files have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from convbody.detection.data.records import Annotation, Category, ImageRecord, Polygons, RunLengths
from convbody.detection.evaluation.truth import GroundTruth


def truth_of(
    annotations: Iterable[Mapping[str, Any]],
    categories: Sequence[Category],
    images: Iterable[int],
    side: int,
) -> GroundTruth:
    """The annotations of square images with these ids; those of other images or categories are left out."""
    images = list(images)
    wanted = [
        each
        for image in images
        for each in annotations
        if each["image_id"] == image and each["category_id"] in {category.id for category in categories}
    ]
    return GroundTruth(
        images=[ImageRecord(image, f"{image}.png", side, side) for image in images],
        categories=categories,
        annotations=[_annotation(each) for each in wanted],
    )


def _annotation(fields: Mapping[str, Any]) -> Annotation:
    left, top, width, height = fields["bbox"]
    points = (
        np.reshape(np.asarray(fields["keypoints"], np.float64), (-1, 3)) if "keypoints" in fields else None
    )
    labelled = 0 if points is None else int((points[:, 2] > 0).sum())
    return Annotation(
        image_id=fields["image_id"],
        category_id=fields["category_id"],
        bbox=(left, top, width, height),
        area=fields.get("area", width * height),
        iscrowd=bool(fields.get("iscrowd", 0)),
        segmentation=_segmentation(fields.get("segmentation")),
        keypoints=points,
        num_keypoints=fields.get("num_keypoints", labelled),
    )


def _segmentation(segmentation: Any) -> Polygons | RunLengths | None:
    if isinstance(segmentation, dict):
        return RunLengths(*segmentation["size"], segmentation["counts"].encode())
    return tuple(map(np.array, segmentation)) if segmentation else None
