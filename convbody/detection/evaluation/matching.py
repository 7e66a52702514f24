"""From an evaluator's matches at IoU 0.50: a score threshold to use, and how each image fares at it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Matches:
    """The detections that count (those on crowds do not) at IoU 0.50, and how many objects there are."""

    scores: np.ndarray
    """(D,) float64."""
    right: np.ndarray
    """(D,) bool: whether the detection is an object's."""
    image_ids: np.ndarray
    """(D,) int64."""
    objects: Mapping[int, int]
    """Image id -> objects to find."""

    @classmethod
    def gather(cls, entries: Iterable[Mapping[str, Any]]) -> Matches:
        """From entries of ``COCOeval.evalImgs``, each one image and class, with IoU 0.50 in row 0."""
        scores: list[float] = []
        right: list[bool] = []
        image_ids: list[int] = []
        objects: Counter[int] = Counter()
        for entry in entries:  # a few values each, for which lists are quicker than arrays
            image_id = int(entry["image_id"])
            objects[image_id] += sum(not ignored for ignored in entry["gtIgnore"])
            for score, match, ignored in zip(
                entry["dtScores"], entry["dtMatches"][0], entry["dtIgnore"][0], strict=True
            ):
                if not ignored:
                    scores.append(score)
                    right.append(match > 0)
                    image_ids.append(image_id)
        return cls(
            np.array(scores, np.float64), np.array(right, bool), np.array(image_ids, np.int64), objects
        )


@dataclass(frozen=True)
class OperatingPoint:
    """A score threshold, and precision, recall and F1 over the whole data set when it is used."""

    score: float
    precision: float
    recall: float
    f1: float


NOTHING_FOUND = OperatingPoint(score=0.5, precision=0.0, recall=0.0, f1=0.0)


def best_operating_point(matches: Matches) -> OperatingPoint:
    """The threshold of the best F1 = 2 TP / (detections + objects); the highest of them on a tie.

    COCOeval matches in the order of the scores, so the matches above a threshold are those that it would have
    made with the detections below it left out. ``NOTHING_FOUND`` when no detection is right.
    """
    if not matches.right.any():
        return NOTHING_FOUND
    objects = sum(matches.objects.values())
    order = np.argsort(-matches.scores, kind="stable")
    scores, true_positives = matches.scores[order], np.cumsum(matches.right[order])
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


def image_f1(matches: Matches, image_ids: Sequence[int], threshold: float) -> dict[int, float]:
    """Image id -> F1 of its detections that score ``threshold`` or more, all classes together.

    An image with nothing to find where nothing is found has 1.0.
    """
    above = matches.scores >= threshold
    detections = Counter(matches.image_ids[above].tolist())
    right = Counter(matches.image_ids[above & matches.right].tolist())
    f1 = {}
    for image_id in map(int, image_ids):
        counted = detections[image_id] + matches.objects.get(image_id, 0)
        f1[image_id] = 2 * right[image_id] / counted if counted else 1.0
    return f1
