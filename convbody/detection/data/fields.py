"""The fields of a COCO file that this project reads: their types, and the spellings that mean the same.

msgspec decodes an entry into one of these structs and says where a type is wrong. All other fields are
skipped, whatever they hold.
"""

from __future__ import annotations

import re
import sys
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from convbody.detection.data.records import OriginalId

Scalar = int | float | str | None
Field = TypeVar("Field")

_LONGEST_NUMBER = 100  # characters, as text
_LARGEST_FLOAT = sys.float_info.max
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,98})")
_PATH = re.compile(r" - at `\$(.*)`$")
_INDEX = re.compile(r"\[\d+\]")


class ImageFields(Struct):
    """An image's; LVIS has ``coco_url`` in the place of ``file_name``."""

    id: Scalar = None
    file_name: Scalar = None
    coco_url: Any = None
    width: Scalar = None
    height: Scalar = None


class CategoryFields(Struct):
    """A category's; what belongs to keypoints is decoded only where they are needed."""

    id: Scalar = None
    name: Scalar | bool = None
    keypoints: Raw = Raw(b"null")
    keypoint_sigmas: Raw = Raw(b"null")


class AnnotationFields(Struct):
    """An annotation's; masks and keypoints are decoded only where they are needed."""

    id: Scalar = None
    image_id: Scalar = None
    category_id: Scalar = None
    bbox: tuple[float, float, float, float] | None = None
    area: Scalar = None
    iscrowd: Scalar | bool = None
    segmentation: Raw = Raw(b"null")
    keypoints: Raw = Raw(b"null")
    num_keypoints: Raw = Raw(b"null")


class RunLengthFields(Struct):
    """A run-length code's: ``size`` is height and width, ``counts`` runs or their compressed form.

    Whole numbers may have a point.
    """

    size: tuple[float, float]
    counts: str | list[float]


class FieldError(Exception):
    """A field of a wrong type or value: ``path`` in the entry, the kind of mistake, and what was found."""

    def __init__(self, kind: str, path: str, detail: str = "") -> None:
        super().__init__(kind, path, detail)
        self.kind, self.path, self.detail = kind, path, detail


def decode(decoder: msgspec.json.Decoder[Field], entry: Raw, where: str, path: str = "") -> Field:
    """``entry``, at ``path`` inside of one of a file's lists, in the types of ``decoder``.

    ``where`` names the kind of entry in messages, such as ``annotations[]``. Raises FieldError.
    """
    try:
        return decoder.decode(entry)
    except msgspec.ValidationError as error:
        inner = match.group(1) if (match := _PATH.search(str(error))) else ""
        problem = _PATH.sub("", str(error)).replace("`null`", "`null` or NaN").replace("`", "")
        kind = f"{where}{_INDEX.sub('[]', path + inner)} of another type ({problem[:1].lower()}{problem[1:]})"
        raise FieldError(kind, path + inner) from None
    except RecursionError:
        raise FieldError(f"{where}{path} nested too deeply", path) from None
    except ValueError as error:
        raise FieldError(f"{where}{path} not in UTF-8", path, str(error)) from None


def identity(value: Scalar) -> OriginalId | None:
    """What an id is compared by: 7, 7.0 and "7" are the same, None stands for no id.

    Raises ValueError for a number with a fraction.
    """
    if isinstance(value, str):
        return int(value) if _WHOLE.fullmatch(value) else value or None
    return value if isinstance(value, int) else whole(value)


def whole(value: Scalar) -> int | None:
    """A whole number, which may be written as text or with a point; None for null, empty text or "NaN".

    Raises ValueError for everything else.
    """
    number = real(value)
    if isinstance(number, float):
        if not number.is_integer():
            raise ValueError(f"{value!r} is no whole number")
        return int(number)
    return number


def real(value: Scalar) -> int | float | None:
    """A number in the range of float64, which may be written as text; None for null, empty text or "NaN".

    Raises ValueError for everything else.
    """
    number = _parsed(value) if isinstance(value, str) else value
    if number is None or number != number:
        return None
    if abs(number) > _LARGEST_FLOAT:
        raise ValueError(f"{value!r} is out of range")
    return number


def _parsed(text: str) -> int | float | None:
    if not text:
        return None
    if len(text) > _LONGEST_NUMBER or not text.isascii():
        raise ValueError(f"{text!r} is no number")
    return int(text) if _WHOLE.fullmatch(text) else float(text)
