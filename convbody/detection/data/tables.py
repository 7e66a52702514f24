"""The records of a data set in a few large arrays.

A million Python objects would take a gigabyte, and again in every data worker, which touches their reference
counts and so copies their memory. Arrays stay shared, and a record is made when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np

from convbody.detection.data.records import (
    Annotation,
    Category,
    ImageRecord,
    OriginalId,
    Polygons,
    RunLengths,
)


@dataclass(frozen=True)
class Ragged:
    """Rows of different length in one array: row i is ``values[ends[i - 1]:ends[i]]``."""

    values: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.ends[row - 1] if row else 0 : self.ends[row]]

    @cached_property
    def lengths(self) -> np.ndarray:
        """How many values each row has."""
        return np.diff(self.ends, prepend=0)

    @classmethod
    def of_text(cls, texts: Iterable[str]) -> Ragged:
        """Strings as rows of uint8."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def text(self, row: int) -> str:
        """The string in a row of what ``of_text`` makes."""
        return self[row].tobytes().decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class ImageTable(Sequence[ImageRecord]):
    """The images of a data set in the file's order."""

    ids: np.ndarray
    """(N,) int64."""
    names: Ragged
    """The file names."""
    sizes: np.ndarray
    """(N, 2) int64: width and height in pixels."""

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageRecord]: ...
    def __getitem__(self, index: int | slice) -> ImageRecord | list[ImageRecord]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        width, height = self.sizes[row].tolist()
        return ImageRecord(int(self.ids[row]), self.names.text(row), width, height)


@dataclass(frozen=True)
class Masks:
    """The masks of annotations, one row each; a row without polygons and without a code has none."""

    polygons: Ragged
    """Every polygon of every annotation, float64."""
    parts: np.ndarray
    """(M,) int64: where the polygons of each annotation end."""
    codes: Ragged
    """Compressed run-length codes, uint8, a row each, empty for polygons."""

    def __getitem__(self, row: int) -> tuple[Polygons, bytes]:
        """The polygons and the run-length code of annotation ``row``."""
        parts = range(self.parts[row - 1] if row else 0, self.parts[row])
        return tuple(self.polygons[part] for part in parts), self.codes[row].tobytes()


@dataclass(frozen=True)
class AnnotationTable:
    """The entries of annotations in the file's order, mistaken ones among them."""

    images: np.ndarray
    """(M,) int32: the image's place in the file, -1 for none."""
    categories: np.ndarray
    """(M,) int32: the category's place in the file, -1 for none."""
    boxes: np.ndarray
    """(M, 4) float64: left, top, width, height."""
    areas: np.ndarray
    """(M,) float64: the file's, or the box's where it has none."""
    crowds: np.ndarray
    """(M,) bool."""
    masks: Masks | None
    """None where masks are not needed."""
    keypoints: Ragged | None
    """float64, three numbers for each; None where keypoints are not needed."""
    labelled: np.ndarray
    """(M,) int64: how many keypoints are labelled."""
    num_keypoints: np.ndarray
    """(M,) int64: how many the file says are labelled, or how many are where it does not say."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Records:
    """A COCO file's images, categories and annotations, less the entries that were left out."""

    images: ImageTable
    categories: tuple[Category, ...]
    annotations: AnnotationTable
    order: np.ndarray
    """int32: the annotations that count, image by image, in the file's order."""
    starts: np.ndarray
    """(N + 1,) int64: where each image's annotations start in ``order``."""
    original_images: dict[int, OriginalId]
    """Image id -> what the file writes instead, for those that are no whole numbers of 54 bits there."""
    original_categories: dict[int, OriginalId]
    """The same for categories."""

    def objects(self, index: int) -> list[Annotation]:
        """The annotations of image ``index``, in the file's order."""
        image = self.images[index]
        return [self._annotation(row, image) for row in self._rows(index)]

    def with_objects(self, least_keypoints: int) -> np.ndarray:
        """Which images have something to train on, in their order.

        That is an object, no crowd, of more than one pixel a side, and ``least_keypoints`` labelled keypoints
        on all objects together.
        """
        table, order = self.annotations, self.order
        image = np.repeat(np.arange(len(self.images)), np.diff(self.starts))
        single = ~table.crowds[order]
        large = single & (table.boxes[order, 2:] > 1).all(axis=1)
        labelled = np.bincount(image, single * table.labelled[order], len(self.images))
        return np.flatnonzero(
            (np.bincount(image, large, len(self.images)) > 0) & (labelled >= least_keypoints)
        )

    def _rows(self, index: int) -> list[int]:
        rows: list[int] = self.order[self.starts[index] : self.starts[index + 1]].tolist()
        return rows

    def _annotation(self, row: int, image: ImageRecord) -> Annotation:
        table = self.annotations
        left, top, width, height = table.boxes[row].tolist()
        keypoints = None if table.keypoints is None else table.keypoints[row].reshape(-1, 3)
        return Annotation(
            image_id=image.id,
            category_id=self.categories[table.categories[row]].id,
            bbox=(left, top, width, height),
            area=float(table.areas[row]),
            iscrowd=bool(table.crowds[row]),
            segmentation=self._segmentation(row, image),
            keypoints=keypoints if keypoints is not None and len(keypoints) else None,
            num_keypoints=int(table.num_keypoints[row]),
        )

    def _segmentation(self, row: int, image: ImageRecord) -> Polygons | RunLengths | None:
        if self.annotations.masks is None:
            return None
        polygons, code = self.annotations.masks[row]
        if code:
            return RunLengths(image.height, image.width, code)
        return polygons or None
