"""Average precision as COCO defines it, in the form the tables and the report need.

The matching and the averaging are an evaluator's own. What is added here: evaluators get only what is scored,
an empty list of detections is a list like any other, and what cannot be measured has a fixed meaning:

* a class without ground truth has no AP (None) and does not enter the mean over classes;
* a size range (``APs``, ``APm``, ``APl``, ``ARs`` ...) without ground truth is left out of the metrics;
* every other metric is always there, 0.0 when the whole data set has nothing to find.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import numpy as np
from pycocotools.cocoeval import COCOeval, Params

from convbody.detection.data.records import Category
from convbody.detection.evaluation.evaluators import REFERENCE, compare
from convbody.detection.evaluation.matching import OperatingPoint, best_operating_point, image_f1
from convbody.detection.evaluation.truth import (
    GroundTruth,
    Numbering,
    Record,
    scored_records,
    scored_truth,
)
from registry import ConvbodyError

_COCO_SIGMAS = Params("keypoints").kpt_oks_sigmas
_SIZES = {"small": "s", "medium": "m", "large": "l"}
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
    evaluator: str = field(compare=False)
    """Who compared: not the one that was asked for where that one could not."""


def score(truth: GroundTruth, records: Sequence[Record], task: str, evaluator: str = REFERENCE) -> TaskScores:
    """Score COCO-format detections of the images of ``truth``; rows of classes keep its categories' order.

    ``task`` is "bbox", "segm", "keypoints", or "proposals" (boxes of any class, scored by recall alone, as in
    Ren et al., "Faster R-CNN", section 4). ``evaluator`` is what ``choose_evaluator`` gives. Raises
    ConvbodyError when masks or keypoints cannot be compared.
    """
    numbering = Numbering.of(truth)
    sigmas = keypoint_sigmas(truth.categories)
    scorer = COCOeval(iouType="bbox" if task == "proposals" else task)
    scorer.params.maxDets = _MAX_DETECTIONS[task]
    scorer.params.imgIds = sorted(numbering.images.values())
    scorer.params.catIds = sorted(numbering.categories.values())
    scorer.params.useCats = int(task != "proposals")
    if task == "keypoints":
        scorer.params.kpt_oks_sigmas = sigmas

    compared = compare(
        evaluator,
        scored_truth(truth, numbering, task, len(sigmas)),
        scored_records(records, numbering, task, len(sigmas)),
        scorer.params,
    )
    scorer.eval = compared.eval
    with contextlib.redirect_stdout(io.StringIO()) as table:
        scorer.summarize()

    operating_point = best_operating_point(compared.matches)
    images = {image.id: numbering.images[image.id] for image in truth.images}
    f1 = image_f1(compared.matches, list(images.values()), operating_point.score)
    classes = [numbering.categories[category.id] for category in truth.categories]
    return TaskScores(
        metrics=_proposal_metrics(scorer) if task == "proposals" else _metrics(scorer),
        per_class=[] if task == "proposals" else _per_class(scorer, classes),
        curves={} if task == "proposals" else _curves(scorer),
        operating_point=operating_point,
        image_f1={image: f1[number] for image, number in images.items()},
        summary=table.getvalue().rstrip(),
        evaluator=compared.evaluator,
    )


def metric_names(task: str, measured: Container[str] = frozenset(_SIZES.values())) -> list[str]:
    """Every metric that ``score`` gives for a task, without the task's name in front.

    ``measured`` are the sizes, "s", "m" and "l", of which there is something to find.
    """
    counts, sizes = _MAX_DETECTIONS[task], [size for size in _SIZES.values() if size in measured]
    if task == "proposals":
        return [f"AR{size}@{count}" for count in counts if count >= 100 for size in ("", *sizes)]
    sizes = [size for size in sizes if (task, size) != ("keypoints", "s")]
    return ["AP", "AP50", "AP75", *(f"AP{size}" for size in sizes), *(f"AR@{count}" for count in counts)]


def keypoint_sigmas(categories: Sequence[Category]) -> np.ndarray:
    """(K,) float64: how far each keypoint may be off, as a fraction of the object's scale (OKS).

    Taken from ``keypoint_sigmas`` of the first category that has keypoints; without it, COCO's for 17
    keypoints, and for any other number the mean of COCO's (0.067) for each.
    """
    with_keypoints = [category for category in categories if category.keypoints]
    if not with_keypoints:
        return _COCO_SIGMAS
    category = with_keypoints[0]
    count, sigmas = len(category.keypoints), category.keypoint_sigmas
    if sigmas is None:
        return _COCO_SIGMAS if count == 17 else np.full(count, _COCO_SIGMAS.mean())
    if len(sigmas) != count:
        raise ConvbodyError(
            f"category {category.name!r} names {count} keypoints and gives {len(sigmas)} keypoint_sigmas; "
            "give one for each keypoint in the annotation file"
        )
    return np.asarray(sigmas, dtype=np.float64)


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
