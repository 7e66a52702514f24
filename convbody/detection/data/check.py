"""Read and check a data set before training: every mistake in it, in one report, before hours are spent."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convbody.data.errors import DataError
from convbody.data.images import DEFAULT_RULES, ImageRules
from convbody.detection.data.annotation_entries import read_annotations
from convbody.detection.data.category_entries import read_categories
from convbody.detection.data.image_entries import read_images
from convbody.detection.data.image_files import check_images
from convbody.detection.data.json_file import read_entries
from convbody.detection.data.report import DatasetReport
from convbody.detection.data.tables import AnnotationTable, ImageTable, Ragged, Records
from convbody.detection.data.value_checks import check_values


def read_dataset(
    ann_file: Path,
    image_dir: Path,
    *,
    name: str = "",
    how: str = "quick",
    masks: bool = False,
    keypoints: bool = False,
    rules: ImageRules = DEFAULT_RULES,
) -> tuple[Records, DatasetReport]:
    """The records of a COCO file, and what is wrong with its entries, which are left out of the records.

    ``how`` says how image files are looked at: "quick" reads every image's header and end, "full" decodes it,
    "none" opens only those whose entry has no size. ``rules`` are those for reading images. With ``masks``
    every annotation must have one, and with ``keypoints`` they are read; without, these fields may hold
    anything.

    Ids may be whole numbers or text of any length. Absent or null may be: the list of annotations, annotation
    ids, ``iscrowd`` (0), ``area`` (the box's), ``keypoints``, and an image's width and height, which are then
    read from it. NaN is read as null. Where a key stands twice in an entry, the last one counts. Annotations
    of an image that is left out go with it, which is no mistake of theirs.

    Mistakes are: fields of a wrong type; ids that are missing, given twice, or no ids; annotations of unknown
    images or categories; images missing, damaged, or of another size than the file says; boxes empty,
    inverted, or more than 1 pixel outside of the image; polygons under 3 points, more than the image's
    side outside of it, or with an outline of over 2,000,000 pixels; run-length codes that are not of the
    image's size or do not fill it; keypoints that are not 3 numbers for each name or as far outside.

    Raises DataError where the file is not in COCO's format, or its categories have mistakes.
    """
    entries = read_entries(ann_file)
    report = DatasetReport(name, len(entries.images), len(entries.annotations))
    categories = read_categories(entries.categories, keypoints, str(ann_file))
    images = read_images(entries.images, report)
    check_images(images, Path(image_dir), how, report, rules)
    table = read_annotations(
        entries.annotations, images, categories, report, masks=masks, keypoints=keypoints
    )
    check_values(table, images.sizes, report)
    kept = np.setdiff1d(np.arange(len(images)), list(report.bad_images))
    numbers, originals = images.ids.numbers(len(images))
    order, starts = _by_image(table, kept, report)
    records = Records(
        images=ImageTable(
            ids=numbers[kept],
            names=Ragged.of_text(images.names[row] for row in kept),
            sizes=images.sizes[kept],
        ),
        categories=categories.records,
        annotations=table,
        order=order,
        starts=starts,
        original_images=originals,
        original_categories=categories.originals,
    )
    return records, report


def read_records(
    ann_file: Path, image_dir: Path, *, masks: bool, keypoints: bool, rules: ImageRules
) -> Records:
    """The records of a COCO file without mistakes; image files are opened only where a size is missing.

    Raises DataError with the report where there is a mistake.
    """
    records, report = read_dataset(
        ann_file, image_dir, name=str(ann_file), how="none", masks=masks, keypoints=keypoints, rules=rules
    )
    if not report.ok:
        raise DataError(str(report))
    return records


def _by_image(
    table: AnnotationTable, kept: np.ndarray, report: DatasetReport
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of annotations without mistakes, image by image, and where each image's start."""
    place = np.full(int(kept.max(initial=-1)) + 2, -1)  # the last for images that are not kept, and for -1
    place[kept] = np.arange(len(kept))
    places = place[np.minimum(table.images, len(place) - 1)]
    places[list(report.bad_annotations)] = -1
    rows = np.flatnonzero(places >= 0)
    order = rows[np.argsort(places[rows], kind="stable")].astype(np.int32)
    starts = np.searchsorted(places[order], np.arange(len(kept) + 1))
    return order, starts
