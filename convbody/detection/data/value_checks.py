"""Whether the numbers of annotations make sense in their images: boxes, polygons, run lengths, keypoints."""

from __future__ import annotations

import numpy as np

from convbody.detection.data.geometry import THINNEST
from convbody.detection.data.masks import (
    FARTHEST_OUTSIDE,
    LONGEST_OUTLINE,
    chunks,
    outlines,
    unsound_codes,
)
from convbody.detection.data.report import DatasetReport
from convbody.detection.data.tables import AnnotationTable, Masks, Ragged

#: Annotation tools round: a box may reach this many pixels over the border; it is cut there.
BORDER = 1.0
_SIDES_OUTSIDE = f"more than {FARTHEST_OUTSIDE:g} image side outside of the image"


def check_values(table: AnnotationTable, sizes: np.ndarray, report: DatasetReport) -> None:
    """Add to ``report`` what is wrong with the values of annotations that nothing is known against yet.

    ``sizes`` (N, 2) are the width and height of the images; annotations of an image without a size are left
    alone.
    """
    if not len(table) or not len(sizes):
        return
    canvas = sizes[table.images].astype(np.float64)
    known = (table.images >= 0) & (canvas > 0).all(axis=1)
    known[list(report.bad_annotations)] = False
    _check_boxes(table.boxes, canvas, np.flatnonzero(known), report)
    if table.masks is not None:
        _check_polygons(table.masks, canvas, known, report)
        bad = unsound_codes(table.masks.codes.values, table.masks.codes.ends, canvas.prod(axis=1))
        for row in np.flatnonzero(bad & known).tolist():
            kind = "run-length code that does not cover its image"
            report.add_annotation(row, kind, _size(canvas[row]), ".segmentation.counts")
    if table.keypoints is not None:
        everyone = np.arange(len(table))
        _check_places(table.keypoints, 3, everyone, canvas, known, "keypoint", ".keypoints", report)


def _check_boxes(boxes: np.ndarray, canvas: np.ndarray, rows: np.ndarray, report: DatasetReport) -> None:
    corners, sides, size = boxes[rows, :2], boxes[rows, 2:], canvas[rows]
    inverted = (sides < 0).any(axis=1)
    empty = (sides <= size.max(axis=1, keepdims=True) * THINNEST).any(axis=1) & ~inverted
    with np.errstate(over="ignore"):
        outside = (corners < -BORDER).any(axis=1) | (corners + sides > size + BORDER).any(axis=1)
    for kind, wrong in (
        ("box that is inverted", inverted),
        ("box that is empty", empty),
        (f"box more than {BORDER:g} pixel outside of the image", outside & ~inverted & ~empty),
    ):
        for row in rows[wrong].tolist():
            detail = f"{[float(f'{number:.6g}') for number in boxes[row]]} in {_size(canvas[row])}"
            report.add_annotation(row, kind, detail, ".bbox")


def _check_polygons(masks: Masks, canvas: np.ndarray, known: np.ndarray, report: DatasetReport) -> None:
    polygons = masks.polygons
    owners = np.repeat(np.arange(len(canvas)), np.diff(masks.parts, prepend=0))
    _check_places(polygons, 2, owners, canvas, known, "polygon", ".segmentation", report)
    totals = np.zeros(len(canvas))
    for rows, values in chunks(polygons.ends):
        points, ends = polygons.values[values].reshape(-1, 2), polygons.ends[rows] - values.start
        with np.errstate(over="ignore"):
            totals += np.bincount(owners[rows], outlines(points, ends // 2), len(canvas))
    for row in np.flatnonzero((totals > LONGEST_OUTLINE) & known).tolist():
        kind = f"mask with an outline longer than {LONGEST_OUTLINE:g} pixels"
        report.add_annotation(row, kind, f"{totals[row]:.3g}", ".segmentation")


def _check_places(
    points: Ragged,
    width: int,
    owners: np.ndarray,
    canvas: np.ndarray,
    known: np.ndarray,
    what: str,
    path: str,
    report: DatasetReport,
) -> None:
    """Report rows of ``points``, x, y and what else makes ``width`` numbers each, that lie far outside."""
    for rows, values in chunks(points.ends):
        lengths, ends = points.lengths[rows], points.ends[rows] - values.start
        full = np.flatnonzero(lengths)
        if not len(full):
            continue
        places = points.values[values].reshape(-1, width)[:, :2]
        starts = (ends - lengths)[full] // width
        low, high = np.minimum.reduceat(places, starts), np.maximum.reduceat(places, starts)
        owner = owners[rows][full]
        size = canvas[owner]
        far = (low < -FARTHEST_OUTSIDE * size) | (high > (1 + FARTHEST_OUTSIDE) * size)
        for place in np.flatnonzero(far.any(axis=1) & known[owner]).tolist():
            farthest = max(*low[place], *high[place], key=abs)
            detail = f"{farthest:g} in {_size(size[place])}"
            report.add_annotation(int(owner[place]), f"{what} {_SIDES_OUTSIDE}", detail, path)


def _size(canvas: np.ndarray) -> str:
    return f"{canvas[0]:g}x{canvas[1]:g}"
