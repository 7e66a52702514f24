"""What evaluators get of a data set: only what is scored, rebuilt from the typed records.

Their own readers are strict about fields that nobody needs, and COCOeval takes an annotation's id of 0 for
"no match". So images, categories and annotations are numbered from 1, in the order of their ids, in which an
evaluator goes through them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convbody.detection.data.records import Annotation, Category, ImageRecord, RunLengths
from registry import ConvbodyError

Record = dict[str, Any]

_FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints", "proposals": "bbox"}


@dataclass(frozen=True)
class GroundTruth:
    """The images that were evaluated, in the order of the data set, and their annotations."""

    images: Sequence[ImageRecord]
    categories: Sequence[Category]
    annotations: Sequence[Annotation]


@dataclass(frozen=True)
class Numbering:
    """Ids -> the numbers from 1 that an evaluator sees, which keep their order."""

    images: Mapping[int, int]
    categories: Mapping[int, int]

    @classmethod
    def of(cls, truth: GroundTruth) -> Numbering:
        """The numbers of the images and categories of ``truth``."""
        return cls(
            _ranks(image.id for image in truth.images),
            _ranks(category.id for category in truth.categories),
        )


def scored_truth(truth: GroundTruth, numbering: Numbering, task: str, keypoints: int) -> dict[str, Any]:
    """A COCO data set for ``task`` that an evaluator may write into.

    An object without keypoints has ``keypoints`` unlabelled ones. Raises ConvbodyError where a mask or the
    right number of keypoints is missing.
    """
    annotations = []
    for number, annotation in enumerate(truth.annotations, start=1):
        rebuilt: Record = {
            "id": number,
            "image_id": numbering.images[annotation.image_id],
            "category_id": numbering.categories[annotation.category_id],
            "bbox": list(annotation.bbox),
            "area": annotation.area,
            "iscrowd": int(annotation.iscrowd),
        }
        if task == "segm":
            rebuilt["segmentation"] = _segmentation(annotation)
        if task == "keypoints":
            rebuilt |= _keypoints(annotation, keypoints)
        annotations.append(rebuilt)
    return {
        "images": [
            {"id": numbering.images[image.id], "height": image.height, "width": image.width}
            for image in truth.images
        ],
        "categories": [{"id": number, "name": str(number)} for number in numbering.categories.values()],
        "annotations": annotations,
    }


def scored_records(
    records: Sequence[Record], numbering: Numbering, task: str, keypoints: int
) -> list[Record]:
    """Detections, less all that is not scored for ``task``, and less those of unknown classes.

    Proposals are of no class, so that any will do. Raises ConvbodyError for another number of keypoints.
    """
    field = _FIELDS[task]
    scored = []
    for record in records:
        category = 1 if task == "proposals" else numbering.categories.get(record["category_id"])
        if field not in record or category is None:
            continue
        if task == "keypoints":
            _check_count("a detection", record["image_id"], record[field], keypoints)
        image = numbering.images[record["image_id"]]
        scored.append(
            {"image_id": image, "category_id": category, "score": record["score"], field: record[field]}
        )
    return scored


def _segmentation(annotation: Annotation) -> Any:
    if annotation.segmentation is None:
        raise ConvbodyError(
            f"an annotation of image {annotation.image_id} has no segmentation, so masks cannot be "
            "evaluated; complete the annotation file or set MODEL.MASK_ON False"
        )
    if isinstance(annotation.segmentation, RunLengths):
        mask = annotation.segmentation
        return {"size": [mask.height, mask.width], "counts": mask.counts.decode("ascii")}
    return [polygon.tolist() for polygon in annotation.segmentation]


def _keypoints(annotation: Annotation, expected: int) -> Record:
    points = [0] * (3 * expected) if annotation.keypoints is None else annotation.keypoints.ravel().tolist()
    _check_count("an annotation", annotation.image_id, points, expected)
    return {"keypoints": points, "num_keypoints": annotation.num_keypoints}


def _check_count(what: str, image: int, points: Sequence[float], expected: int) -> None:
    if len(points) != 3 * expected:
        raise ConvbodyError(
            f"{what} of image {image} has {len(points) / 3:g} keypoints where the category names {expected}; "
            "MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES and the annotation file have to agree with it"
        )


def _ranks(ids: Iterable[int]) -> dict[int, int]:
    return {each: rank for rank, each in enumerate(sorted(ids), start=1)}
