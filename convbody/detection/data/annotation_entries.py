"""The entries of annotations in a COCO file: from their fields to the columns of a table."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from msgspec import Raw

from convbody.detection.data.category_entries import CategoryEntries
from convbody.detection.data.fields import AnnotationFields, FieldError, Scalar, decode, real
from convbody.detection.data.ids import id_key
from convbody.detection.data.image_entries import ImageEntries
from convbody.detection.data.keypoint_entries import KeypointColumn
from convbody.detection.data.mask_entries import MaskColumn
from convbody.detection.data.records import Box, OriginalId
from convbody.detection.data.report import DatasetReport, shortened
from convbody.detection.data.tables import AnnotationTable

_EMPTY: Box = (0.0, 0.0, 0.0, 0.0)


def read_annotations(
    entries: Sequence[Raw],
    images: ImageEntries,
    categories: CategoryEntries,
    report: DatasetReport,
    *,
    masks: bool,
    keypoints: bool,
) -> AnnotationTable:
    """The fields of all entries of annotations; mistakes in types and ids are added to ``report``.

    Masks and keypoints are read only where asked for. A mistaken entry leaves a row with what could be read.
    """
    decoder = msgspec.json.Decoder(AnnotationFields)
    image_rows, category_rows = array("i"), array("i")
    boxes, areas, crowds = array("d"), array("d"), bytearray()
    mask_column = MaskColumn() if masks else None
    keypoint_column = KeypointColumn(categories.records) if keypoints else None
    seen: set[OriginalId] = set()
    sizes = images.sizes.tolist()
    for position, entry in enumerate(entries):
        image, category, box, area, crowd = -1, -1, _EMPTY, np.nan, False
        try:
            fields = decode(decoder, entry, "annotations[]")
            image = _row(images.ids.rows, fields.image_id, "image")
            category = _row(categories.rows, fields.category_id, "category")
            _check_new(fields.id, seen)
            box, area, crowd = _box(fields), _area(fields.area), _flag(fields.iscrowd)
            width, height = sizes[image]
            if mask_column is not None and width and height:
                mask_column.read(fields.segmentation, height, width)
            if keypoint_column is not None:
                keypoint_column.read(fields, category)
        except FieldError as error:
            report.add_annotation(position, error.kind, error.detail, error.path)
        image_rows.append(image)
        category_rows.append(category)
        boxes.extend(box)
        areas.append(area)
        crowds.append(crowd)
        if mask_column is not None:
            mask_column.close_row()
        if keypoint_column is not None:
            keypoint_column.close_row()
    labelled, told = (
        np.zeros((2, len(crowds)), np.int64) if keypoint_column is None else keypoint_column.counts()
    )
    corners, own_areas = np.frombuffer(boxes, np.float64).reshape(-1, 4), np.frombuffer(areas, np.float64)
    return AnnotationTable(
        images=np.frombuffer(image_rows, np.int32),
        categories=np.frombuffer(category_rows, np.int32),
        boxes=corners,
        areas=np.where(np.isnan(own_areas), corners[:, 2] * corners[:, 3], own_areas),
        crowds=np.frombuffer(crowds, np.bool_),
        masks=None if mask_column is None else mask_column.masks(),
        keypoints=None if keypoint_column is None else keypoint_column.keypoints(),
        labelled=labelled,
        num_keypoints=told,
    )


def _row(rows: Mapping[OriginalId, int], value: Scalar, what: str) -> int:
    """The place in the file of the image or category that an annotation names."""
    row = rows.get(value) if type(value) is int else rows.get(id_key(value, what, f".{what}_id"))
    if row is None:
        raise FieldError(f"annotation of an unknown {what}", f".{what}_id", shortened(repr(value)))
    return row


def _check_new(value: Scalar, seen: set[OriginalId]) -> None:
    if value is None or value == "":
        return
    key = value if type(value) is int else id_key(value, "annotation")
    if key in seen:
        raise FieldError("annotation id given twice", ".id", shortened(repr(value)))
    seen.add(key)


def _box(fields: AnnotationFields) -> Box:
    if fields.bbox is None:
        raise FieldError("annotation without a box", ".bbox")
    return fields.bbox


def _area(value: Scalar) -> float:
    try:
        area = real(value)
    except ValueError:
        raise FieldError("area that is no number", ".area", shortened(repr(value))) from None
    if area is None:
        return np.nan
    if area < 0:
        raise FieldError("area below zero", ".area", repr(area))
    return float(area)


def _flag(value: Scalar | bool) -> bool:
    try:
        flag = real(value)
    except ValueError:
        flag = -1
    if flag not in (None, 0, 1):
        raise FieldError("iscrowd that is neither 0 nor 1", ".iscrowd", shortened(repr(value)))
    return bool(flag)
