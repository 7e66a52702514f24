"""Average precision as COCO defines it, in the form the tables and the report need.

The matching and the averaging are an evaluator's own. What is added here: ground truth is completed first
(COCOeval needs ``area``, ``iscrowd`` and ids above 0, which hand-made annotation files leave out), an empty
list of detections is a list like any other, and what cannot be measured has a fixed meaning:

* a class without ground truth has no AP (None) and does not enter the mean over classes;
* a size range (``APs``, ``APm``, ``APl``, ``ARs`` ...) without ground truth is left out of the metrics;
* every other metric is always there, 0.0 when the whole data set has nothing to find.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from convbody.detection.evaluation.evaluators import REFERENCE, Record, compare
from convbody.detection.evaluation.matching import OperatingPoint, best_operating_point, image_f1
from registry import ConvbodyError

_COCO_SIGMAS = Params("keypoints").kpt_oks_sigmas
_SIZES = {"small": "s", "medium": "m", "large": "l"}
_WHAT_TO_KEEP = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints", "proposals": "bbox"}
_MAX_DETECTIONS = {
    "bbox": [1, 10, 100],
    "segm": [1, 10, 100],
    "keypoints": [20],
    "proposals": [10, 100, 1000],
}


@dataclass(frozen=True)
class TaskScores:
    """What one task ("bbox", "segm", "keypoints" or "proposals") scored. All numbers are fractions of 1."""

    metrics: dict[str, float]
    """"AP", "AP50", ..., without the task's name in front."""
    per_class: list[dict[str, float | None]]
    """One {"AP", "AP50"} per class, in the order of the categories given; empty for proposals."""
    curves: dict[str, list[float]]
    """IoU ("0.50", "0.75") -> precision at the recalls 0.00, 0.01, ..., 1.00, mean over classes."""
    operating_point: OperatingPoint
    """The score threshold with the best F1 over all images, at IoU 0.50."""
    image_f1: dict[int, float]
    """Image id -> F1 at that threshold."""
    summary: str
    """COCOeval's own table."""


def score(
    ground_truth: COCO,
    records: Sequence[Record],
    task: str,
    image_ids: Sequence[int],
    category_ids: Sequence[int],
    evaluator: str = REFERENCE,
) -> TaskScores:
    """Score COCO-format detections of ``image_ids`` against ``ground_truth``.

    ``task`` is "bbox", "segm", "keypoints", or "proposals" (boxes of any class, scored by recall alone, as in
    Ren et al., "Faster R-CNN", section 4). ``evaluator`` is what ``choose_evaluator`` gives. Raises
    ConvbodyError when masks or keypoints cannot be compared.
    """
    kept = _WHAT_TO_KEEP[task]
    found = [
        {key: record[key] for key in ("image_id", "category_id", "score", kept)}
        for record in records
        if kept in record
    ]
    sigmas = keypoint_sigmas(ground_truth, category_ids)
    truth = _completed(ground_truth, image_ids, category_ids, kept, len(sigmas))
    scorer = COCOeval(iouType="bbox" if task == "proposals" else task)
    scorer.params.maxDets = _MAX_DETECTIONS[task]
    scorer.params.imgIds = sorted(image_ids)
    scorer.params.catIds = sorted(category_ids)
    scorer.params.useCats = int(task != "proposals")
    if task == "keypoints":
        scorer.params.kpt_oks_sigmas = sigmas
        _check_keypoint_counts(truth["annotations"], found, len(sigmas))
    if task == "segm":
        _check_segmentations(truth["annotations"])

    compared = compare(evaluator, truth, found, scorer.params)
    scorer.eval = compared.eval
    with contextlib.redirect_stdout(io.StringIO()) as table:
        scorer.summarize()

    operating_point = best_operating_point(compared.matches)
    return TaskScores(
        metrics=_proposal_metrics(scorer) if task == "proposals" else _metrics(scorer),
        per_class=[] if task == "proposals" else _per_class(scorer, category_ids),
        curves={} if task == "proposals" else _curves(scorer),
        operating_point=operating_point,
        image_f1=image_f1(compared.matches, image_ids, operating_point.score),
        summary=table.getvalue().rstrip(),
    )


def metric_names(task: str) -> list[str]:
    """Every metric that ``score`` can give for a task, without the task's name in front."""
    counts = _MAX_DETECTIONS[task]
    if task == "proposals":
        return [f"AR{size}@{count}" for count in counts if count >= 100 for size in ("", *_SIZES.values())]
    sizes = [size for size in _SIZES.values() if (task, size) != ("keypoints", "s")]
    return ["AP", "AP50", "AP75", *(f"AP{size}" for size in sizes), *(f"AR@{count}" for count in counts)]


def keypoint_sigmas(ground_truth: COCO, category_ids: Sequence[int]) -> np.ndarray:
    """(K,) float64: how far each keypoint may be off, as a fraction of the object's scale (OKS).

    Taken from ``keypoint_sigmas`` of the category in the annotation file; without it, COCO's for 17
    keypoints, and for any other number the mean of COCO's (0.067) for each.
    """
    categories = [c for c in ground_truth.loadCats(list(category_ids)) if c.get("keypoints")]
    if not categories:
        return _COCO_SIGMAS
    names = categories[0]["keypoints"]
    sigmas = categories[0].get("keypoint_sigmas")
    if sigmas is None:
        return _COCO_SIGMAS if len(names) == 17 else np.full(len(names), _COCO_SIGMAS.mean())
    if len(sigmas) != len(names):
        raise ConvbodyError(
            f"category {categories[0]['name']!r} names {len(names)} keypoints and gives {len(sigmas)} "
            "keypoint_sigmas; give one for each keypoint in the annotation file"
        )
    return np.asarray(sigmas, dtype=np.float64)


def _completed(
    ground_truth: COCO,
    image_ids: Sequence[int],
    category_ids: Sequence[int],
    kept: str,
    keypoint_count: int,
) -> dict[str, Any]:
    """A data set that an evaluator may write into: what it reads and no more, the optional fields filled in,
    ids counted from 1.

    (COCOeval marks a match by the annotation's id, so an id of 0 would read as "no match".)
    """
    wanted = ground_truth.loadAnns(ground_truth.getAnnIds(imgIds=list(image_ids), catIds=list(category_ids)))
    annotations = []
    for number, annotation in enumerate(wanted, start=1):
        completed = {
            "id": number,
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": annotation["bbox"],
            "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
            "iscrowd": annotation.get("iscrowd", 0),
        }
        if kept == "segmentation":
            completed["segmentation"] = annotation.get("segmentation")
        if kept == "keypoints":
            keypoints = annotation.get("keypoints") or [0] * (3 * keypoint_count)
            labelled = sum(visibility > 0 for visibility in keypoints[2::3])
            completed |= {"keypoints": keypoints, "num_keypoints": annotation.get("num_keypoints", labelled)}
        annotations.append(completed)
    return {
        "images": ground_truth.loadImgs(list(image_ids)),
        "categories": ground_truth.loadCats(list(category_ids)),
        "annotations": annotations,
    }


def _check_keypoint_counts(annotations: Sequence[Record], found: Sequence[Record], expected: int) -> None:
    for what, entries in (("an annotation", annotations), ("a detection", found)):
        for entry in entries:
            if len(entry["keypoints"]) != 3 * expected:
                raise ConvbodyError(
                    f"{what} of image {entry['image_id']} has {len(entry['keypoints']) / 3:g} keypoints "
                    f"where the category names {expected}; MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES and the "
                    "annotation file have to agree with it"
                )


def _check_segmentations(annotations: Sequence[Record]) -> None:
    for annotation in annotations:
        if not annotation.get("segmentation"):
            raise ConvbodyError(
                f"an annotation of image {annotation['image_id']} has no segmentation, so masks cannot be "
                "evaluated; complete the annotation file or set MODEL.MASK_ON False"
            )


def _mean(values: np.ndarray) -> float | None:
    """Mean of what was measured (COCOeval marks the rest with -1); None when nothing was."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else None


def _at_iou(scorer: COCOeval, iou: float) -> int:
    return int(np.argmin(np.abs(scorer.params.iouThrs - iou)))


def _metrics(scorer: COCOeval) -> dict[str, float]:
    precision, recall = scorer.eval["precision"], scorer.eval["recall"]
    metrics = {
        "AP": _mean(precision[..., 0, -1]) or 0.0,
        "AP50": _mean(precision[_at_iou(scorer, 0.50), ..., 0, -1]) or 0.0,
        "AP75": _mean(precision[_at_iou(scorer, 0.75), ..., 0, -1]) or 0.0,
    }
    for index, label in enumerate(scorer.params.areaRngLbl[1:], start=1):
        value = _mean(precision[..., index, -1])
        if value is not None:
            metrics[f"AP{_SIZES[label]}"] = value
    for index, count in enumerate(scorer.params.maxDets):
        metrics[f"AR@{count}"] = _mean(recall[..., 0, index]) or 0.0
    return metrics


def _proposal_metrics(scorer: COCOeval) -> dict[str, float]:
    recall = scorer.eval["recall"]
    metrics = {}
    for index, count in enumerate(scorer.params.maxDets):
        if count < 100:
            continue
        metrics[f"AR@{count}"] = _mean(recall[..., 0, index]) or 0.0
        for size, label in enumerate(scorer.params.areaRngLbl[1:], start=1):
            value = _mean(recall[..., size, index])
            if value is not None:
                metrics[f"AR{_SIZES[label]}@{count}"] = value
    return metrics


def _per_class(scorer: COCOeval, category_ids: Sequence[int]) -> list[dict[str, float | None]]:
    precision = scorer.eval["precision"]
    positions = [scorer.params.catIds.index(category) for category in category_ids]
    at_50 = _at_iou(scorer, 0.50)
    return [
        {"AP": _mean(precision[:, :, k, 0, -1]), "AP50": _mean(precision[at_50, :, k, 0, -1])}
        for k in positions
    ]


def _curves(scorer: COCOeval) -> dict[str, list[float]]:
    """Precision at each recall, averaged over the classes that have ground truth (zeros when none has)."""
    curves = {}
    for iou in (0.50, 0.75):
        by_class = scorer.eval["precision"][_at_iou(scorer, iou), :, :, 0, -1]
        measured = by_class[:, by_class[0] > -1]
        mean = measured.mean(axis=1) if measured.size else np.zeros(len(by_class))
        curves[f"{iou:.2f}"] = [round(float(value), 5) for value in mean]
    return curves
