"""The entries of images in a COCO file: from their fields to ids, names and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec
import numpy as np
from msgspec import Raw

from convbody.detection.data.fields import FieldError, ImageFields, Scalar, decode, whole
from convbody.detection.data.ids import Ids
from convbody.detection.data.json_file import original_text
from convbody.detection.data.report import DatasetReport, shortened

#: Pixels of an image: COCO's run lengths count them in 32 bits.
MOST_PIXELS = 2**31


@dataclass
class ImageEntries:
    """The entries of images in the file's order; of mistaken ones only what could be read."""

    names: list[str]
    """File names, "" for none."""
    other_names: dict[int, str]
    """Position -> where the image is looked for in case that there is none of the first name."""
    sizes: np.ndarray
    """(N, 2) int64: width and height in pixels, 0 for what has to be read from the image."""
    ids: Ids

    def __len__(self) -> int:
        return len(self.names)


def read_images(entries: Sequence[Raw], report: DatasetReport) -> ImageEntries:
    """The fields of all entries of images; mistakes are added to ``report``."""
    decoder = msgspec.json.Decoder(ImageFields)
    images = ImageEntries([], {}, np.zeros((len(entries), 2), np.int64), Ids("image"))
    for position, entry in enumerate(entries):
        images.names.append("")
        try:
            fields = decode(decoder, entry, "images[]")
            images.ids.add(fields.id, position)
            images.names[position], other = _file_names(fields)
            if other:
                images.other_names[position] = other
            width, height = _pixels(fields.width, "width"), _pixels(fields.height, "height")
            if max(width, 1) * max(height, 1) >= MOST_PIXELS:
                raise FieldError(f"image of {MOST_PIXELS} pixels or more", "", f"{width}x{height}")
            images.sizes[position] = width, height
        except FieldError as error:
            report.add_image(position, error.kind, error.detail, error.path)
    return images


def _file_names(fields: ImageFields) -> tuple[str, str]:
    """Where the image is in its folder, and where else it may be, "" for nowhere.

    LVIS gives addresses, of which the last part or the last two are the file's name; Label Studio on Windows
    writes backslashes.
    """
    if fields.file_name not in (None, ""):
        name = original_text(str(fields.file_name))
        return name, name.replace("\\", "/") if "\\" in name else ""
    parts = []
    if isinstance(fields.coco_url, str):
        parts = [part for part in _path_of(fields.coco_url).split("/") if part]
    if not parts:
        raise FieldError("image entry without file_name", ".file_name")
    return "/".join(parts[-2:]), parts[-1]


def _path_of(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""


def _pixels(value: Scalar, side: str) -> int:
    try:
        pixels = whole(value) or 0
    except ValueError:
        problem = f"image {side} that is no whole number"
        raise FieldError(problem, f".{side}", shortened(repr(value))) from None
    if pixels < 0:
        raise FieldError(f"image {side} below zero", f".{side}", str(pixels))
    return pixels
