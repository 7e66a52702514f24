"""EXIF orientation: how a camera was held, and whether an image is turned by it (DATASETS.EXIF)."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

AUTO, APPLY, IGNORE = CHOICES = ("auto", "apply", "ignore")
Size = tuple[int, int]  # width, height

_TAG = 0x0112
_TURN = Image.Transpose
# The first row and column of the stored pixels are the image's ... (TIFF 6.0, page 36).
_METHODS = {
    2: _TURN.FLIP_LEFT_RIGHT,
    3: _TURN.ROTATE_180,
    4: _TURN.FLIP_TOP_BOTTOM,
    5: _TURN.TRANSPOSE,
    6: _TURN.ROTATE_270,
    7: _TURN.TRANSVERSE,
    8: _TURN.ROTATE_90,
}
_INVERSE = {6: 8, 8: 6}  # the others are their own


def orientation_of(image: Image.Image, path: Path) -> int:
    """The orientation that an opened image is stored in, 1 (upright) to 8; 1 where none is said, or nonsense.

    The image is decoded only where it has to be, which is for PNGs whose EXIF data follow the pixels.
    """
    try:
        if image.format == "PNG" and _has_late_exif(path):
            image.load()
        # PNG's own getexif decodes the pixels in any case.
        value = Image.Image.getexif(image).get(_TAG, 1)
    except Exception:  # broken EXIF data, of which Pillow raises whatever its parser stumbles over
        return 1
    return value if value in _METHODS else 1


def stored_size(image: Image.Image) -> Size:
    """Width and height of the stored pixels: Pillow gives those of a TIFF after turning it."""
    tags = getattr(image, "tag_v2", None)
    return image.size if tags is None else (int(tags[256]), int(tags[257]))


def turned_size(size: Size, orientation: int) -> Size:
    """``size`` of an image once it is upright."""
    return size[::-1] if orientation >= 5 else size


def to_apply(choice: str, orientation: int, size: Size, told: Size | None) -> int:
    """The orientation by which an image is turned: ``orientation``, or 1, which leaves it as it is stored.

    ``choice`` is DATASETS.EXIF: "apply", "ignore", or "auto", which applies it where that gives the size
    ``told`` by the annotations, and ``size``, that of the stored pixels, is another.
    """
    if choice == AUTO:
        return orientation if told == turned_size(size, orientation) != size else 1
    return orientation if choice == APPLY else 1


def turn(image: Image.Image, orientation: int) -> Image.Image:
    """A decoded image of stored pixels, turned upright by ``orientation``."""
    return image.transpose(_METHODS[orientation]) if orientation != 1 else image


def turn_back(image: Image.Image, orientation: int) -> Image.Image:
    """The opposite of ``turn``."""
    return turn(image, _INVERSE.get(orientation, orientation))


def _has_late_exif(path: Path) -> bool:
    """Whether a PNG has its EXIF data behind the pixels."""
    seen_pixels, place = False, 8
    with path.open("rb", buffering=0) as file:  # 8 bytes of each chunk, far from each other
        while len(head := os.pread(file.fileno(), 8, place)) == 8:
            kind = head[4:]
            if kind == b"eXIf":
                return seen_pixels
            seen_pixels |= kind == b"IDAT"
            place += int.from_bytes(head[:4], "big") + 12
    return False
