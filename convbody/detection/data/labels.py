"""The labels of a detector's classes: by category id where it is trained, by name everywhere else."""

from __future__ import annotations

from collections.abc import Sequence

from convbody.data.classes import ClassNames, distinct_names, labels_by_name
from convbody.data.errors import DataError
from convbody.detection.data.records import Category

#: 0 is the background.
FIRST_LABEL = 1
_HIGHEST_LABEL = 100_000


def class_names(categories: Sequence[Category]) -> dict[int, str]:
    """Category id -> what its class is called, in the order of ids, whatever the order in the file.

    Categories of the same name are told apart by their ids: "crane (3)".
    """
    return distinct_names({category.id: category.name for category in sorted(categories, key=lambda c: c.id)})


def classes_of(categories: Sequence[Category], by_id: bool) -> ClassNames:
    """The classes of a detector that is trained on ``categories``, by label from 1 on.

    Labels follow the category ids: one after the other or, ``by_id``, the ids themselves. Those that no
    category has, such as COCO's 12, are None: torchvision's detectors have an output for each.

    Raises:
        DataError: an id below 1 is to be a label, and 0 is the background; or an id over 100,000.
    """
    names = class_names(categories)
    if not by_id:
        return tuple(names.values())
    lowest = min(names, default=FIRST_LABEL)
    if lowest < FIRST_LABEL:
        raise DataError(
            f"category {names[lowest]!r} has the id {lowest}, and label 0 is the background; set "
            "DATASETS.LABELS to consecutive"
        )
    if (highest := max(names, default=0)) > _HIGHEST_LABEL:
        raise DataError(
            f"category {names[highest]!r} has the id {highest}, and a detector would have a class for each "
            "id up to it; set DATASETS.LABELS to consecutive"
        )
    return tuple(names.get(label) for label in range(FIRST_LABEL, highest + 1))


def category_labels(categories: Sequence[Category], classes: ClassNames) -> dict[int, int]:
    """Category id -> label, for the categories whose names are among ``classes``."""
    labels = labels_by_name(classes, FIRST_LABEL)
    return {key: labels[name] for key, name in class_names(categories).items() if name in labels}


def shown(classes: ClassNames) -> list[str]:
    """The names as text, for people: a label that no class has is "unused"."""
    return ["unused" if name is None else name for name in classes]
