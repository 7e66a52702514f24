"""The entries of categories in a COCO file. A mistake in one ends the reading: every label hangs on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import Raw

from convbody.data.errors import DataError
from convbody.detection.data.fields import CategoryFields, FieldError, Scalar, decode
from convbody.detection.data.ids import Ids
from convbody.detection.data.json_file import original_text, read_entries
from convbody.detection.data.records import Category, OriginalId
from convbody.detection.data.report import Problem


@dataclass
class CategoryEntries:
    """The categories in the file's order, and the ids that annotations may write for them."""

    records: tuple[Category, ...] = ()
    originals: dict[int, OriginalId] = field(default_factory=dict)
    """Id -> what the file writes, where that is not the number."""
    rows: dict[OriginalId, int] = field(default_factory=dict)


def read_categories(entries: Sequence[Raw], keypoints: bool, name: str) -> CategoryEntries:
    """The categories of the file called ``name``; their keypoints only where these are needed.

    Raises DataError, in one line, for every kind of mistake with its count.
    """
    decoder = msgspec.json.Decoder(CategoryFields)
    ids, found = Ids("category"), []
    problems: dict[str, Problem] = {}
    for position, entry in enumerate(entries):
        try:
            fields = decode(decoder, entry, "categories[]")
            ids.add(fields.id, position)
            found.append((_name(fields.name), *(_keypoints(fields) if keypoints else ((), None))))
        except FieldError as error:
            detail = f" ({error.detail})" if error.detail else ""
            problems.setdefault(error.kind, Problem()).add(f"$.categories[{position}]{error.path}{detail}")
    if problems:
        told = "; ".join(f"{problem.count} x {kind}: {problem}" for kind, problem in problems.items())
        raise DataError(f"annotation file {name}: {told}")
    numbers, originals = ids.numbers(len(found))
    records = tuple(Category(int(n), *fields) for n, fields in zip(numbers, found, strict=True))
    return CategoryEntries(records, originals, ids.rows)


def categories_of(ann_file: Path) -> tuple[Category, ...]:
    """The categories of a COCO file, without their keypoints. Raises DataError like ``read_categories``."""
    return read_categories(read_entries(ann_file).categories, False, str(ann_file)).records


def _name(value: Scalar | bool) -> str:
    if value is None or value == "":
        raise FieldError("category without a name", ".name")
    return original_text(str(value))


def _keypoints(fields: CategoryFields) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    names = decode(_NAMES, fields.keypoints, "categories[]", ".keypoints")
    sigmas = decode(_SIGMAS, fields.keypoint_sigmas, "categories[]", ".keypoint_sigmas")
    if sigmas is not None and not all(sigma > 0 for sigma in sigmas):
        raise FieldError("keypoint sigma that is not above zero", ".keypoint_sigmas", str(sigmas))
    return tuple(map(str, names or ())), None if sigmas is None else tuple(sigmas)


_NAMES = msgspec.json.Decoder(list[Scalar] | None)
_SIGMAS = msgspec.json.Decoder(list[float] | None)
