"""The keypoints of a COCO file's annotations, collected into one array."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import msgspec
import numpy as np

from convbody.detection.data.fields import AnnotationFields, FieldError, Scalar, decode, whole
from convbody.detection.data.records import Category
from convbody.detection.data.tables import Ragged

_WHERE, _PATH = "annotations[]", ".keypoints"
_POINTS = msgspec.json.Decoder(list[float | None] | None)
_COUNT = msgspec.json.Decoder(Scalar)


class KeypointColumn:
    """Keypoints row by row."""

    def __init__(self, categories: Sequence[Category]) -> None:
        self._wanted = [len(category.keypoints) for category in categories]
        self._points, self._ends = array("d"), array("q")
        self._labelled, self._told = array("q"), array("q")
        self._counts = (0, 0)

    def read(self, fields: AnnotationFields, category: int) -> None:
        """Take in the keypoints of one annotation of the category at place ``category``; they may be absent.

        Points that are not labelled, which may be null, are zeros. Raises FieldError for what is none.
        """
        found = decode(_POINTS, fields.keypoints, _WHERE, _PATH) or []
        wanted = self._wanted[category]
        if len(found) % 3 or (wanted and found and len(found) != 3 * wanted):
            detail = f"{len(found)} numbers for {wanted} names"
            raise FieldError("keypoints that are not 3 numbers for each name", _PATH, detail)
        points, labelled = [], 0
        for place in range(0, len(found), 3):
            x, y, visibility = found[place : place + 3]
            if visibility not in (None, 0, 1, 2):
                raise FieldError(
                    "visibility that is not 0, 1 or 2", f"{_PATH}[{place + 2}]", repr(visibility)
                )
            if not visibility:
                points += [0.0, 0.0, 0.0]
            elif x is None or y is None:
                raise FieldError("labelled keypoint that is null or NaN", f"{_PATH}[{place}]")
            else:
                points += [x, y, visibility]
                labelled += 1
        told = _told(fields)
        self._points.extend(points)
        self._counts = labelled, labelled if told is None else told

    def close_row(self) -> None:
        """Go on to the next annotation, whether this one has keypoints or not."""
        self._ends.append(len(self._points))
        self._labelled.append(self._counts[0])
        self._told.append(self._counts[1])
        self._counts = (0, 0)

    def keypoints(self) -> Ragged:
        """The numbers that were collected, three for each keypoint."""
        return Ragged(np.frombuffer(self._points, np.float64), np.frombuffer(self._ends, np.int64))

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """How many keypoints of each annotation are labelled, and how many the file says, int64."""
        return np.frombuffer(self._labelled, np.int64), np.frombuffer(self._told, np.int64)


def _told(fields: AnnotationFields) -> int | None:
    value = decode(_COUNT, fields.num_keypoints, _WHERE, ".num_keypoints")
    try:
        told = whole(value)
    except ValueError:
        told = -1
    if told is not None and not 0 <= told < 2**31:
        raise FieldError("number of keypoints that is no whole number from 0", ".num_keypoints", repr(value))
    return told
