"""From an evaluator's matches at IoU 0.50: a score threshold to use, and how each image fares at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Match = Mapping[str, Any]
"""One image, one class, IoU 0.50 first: an entry of ``COCOeval.evalImgs``, arrays or lists."""


@dataclass(frozen=True)
class OperatingPoint:
    """A score threshold, and precision, recall and F1 over the whole data set when it is used."""

    score: float
    precision: float
    recall: float
    f1: float


NOTHING_FOUND = OperatingPoint(score=0.5, precision=0.0, recall=0.0, f1=0.0)


def best_operating_point(matches: Sequence[Match]) -> OperatingPoint:
    """The threshold of the best F1 = 2 TP / (detections + objects); the highest of them on a tie.

    COCOeval matches in the order of the scores, so the matches above a threshold are those that it would have
    made with the detections below it left out. ``NOTHING_FOUND`` when no detection is right.
    """
    scores = np.concatenate([_counted(match)[0] for match in matches] or [np.zeros(0)])
    right = np.concatenate([_counted(match)[1] for match in matches] or [np.zeros(0, dtype=bool)])
    objects = sum(_objects(match) for match in matches)
    if not right.any():
        return NOTHING_FOUND
    order = np.argsort(-scores, kind="stable")
    scores, true_positives = scores[order], np.cumsum(right[order])
    detections = np.arange(1, len(scores) + 1)
    f1 = 2 * true_positives / (detections + objects)
    f1[:-1][scores[:-1] == scores[1:]] = -1.0  # a threshold takes all of the detections with one score
    best = int(np.argmax(f1))
    return OperatingPoint(
        score=float(scores[best]),
        precision=float(true_positives[best] / detections[best]),
        recall=float(true_positives[best] / objects),
        f1=float(f1[best]),
    )


def image_f1(matches: Sequence[Match], image_ids: Sequence[int], threshold: float) -> dict[int, float]:
    """Image id -> F1 of its detections that score ``threshold`` or more, all classes together.

    An image with nothing to find where nothing is found has 1.0.
    """
    counts = {int(image_id): np.zeros(3) for image_id in image_ids}
    for match in matches:
        scores, right = _counted(match)
        above = scores >= threshold
        counts[int(match["image_id"])] += (right[above].sum(), above.sum(), _objects(match))
    return {
        image_id: float(2 * right / (detections + objects)) if detections + objects else 1.0
        for image_id, (right, detections, objects) in counts.items()
    }


def _counted(match: Match) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the detections that count (those on crowds do not), and whether each is right at IoU 0.50."""
    counts = ~np.asarray(match["dtIgnore"][0], dtype=bool)
    scores, matched = np.asarray(match["dtScores"], dtype=np.float64), np.asarray(match["dtMatches"][0])
    return scores[counts], matched[counts] > 0


def _objects(match: Match) -> int:
    return int(np.count_nonzero(np.asarray(match["gtIgnore"]) == 0))
