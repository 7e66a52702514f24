"""Data sets in COCO's format: found by name, checked, augmented, and put into repeatable batches."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convbody.data.errors import DataError as DataError

if TYPE_CHECKING:
    from convbody.detection.data.catalog import find_dataset as find_dataset
    from convbody.detection.data.check import read_dataset as read_dataset
    from convbody.detection.data.coco import CocoDataset as CocoDataset
    from convbody.detection.data.loader import Known as Known
    from convbody.detection.data.loader import build_test_dataset as build_test_dataset
    from convbody.detection.data.loader import build_train_batches as build_train_batches
    from convbody.detection.data.loader import check_class_count as check_class_count
    from convbody.detection.data.loader import open_test_sets as open_test_sets
    from convbody.detection.data.loader import train_datasets as train_datasets
    from convbody.detection.data.synthetic import make_synthetic as make_synthetic

_HOMES = {
    "find_dataset": "catalog",
    "read_dataset": "check",
    "CocoDataset": "coco",
    "Known": "loader",
    "build_test_dataset": "loader",
    "build_train_batches": "loader",
    "check_class_count": "loader",
    "open_test_sets": "loader",
    "train_datasets": "loader",
    "make_synthetic": "synthetic",
}
__all__ = sorted([*_HOMES, "DataError"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
