"""Reading image files into RGB, and judging a file without decoding all of it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from convbody.data.errors import DataError

# A file that ends with its format's end mark was written to the end.
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
# What Pillow raises for damaged files: broken PNG chunks are SyntaxError, impossible sizes ValueError.
_DAMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_rgb(path: Path) -> Image.Image:
    """Decode ``path`` to an 8-bit RGB image.

    Grey, palette and CMYK images are converted, transparency is dropped, and 16-bit grey keeps its upper
    eight bits. An EXIF orientation is not applied: annotations count in stored pixels, as COCO's do. Raises
    DataError with the path where the file is missing, damaged, or no image.
    """
    try:
        with warnings.catch_warnings():
            # Palette images with transparency in bytes: Pillow advises RGBA, and the transparency is
            # dropped anyway.
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(path) as image:
                image.load()
                if image.mode.startswith("I"):
                    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert(
                        "RGB"
                    )
                return image if image.mode == "RGB" else image.convert("RGB")
    except _DAMAGE as error:
        raise DataError(f"cannot read image {path}: {_reason(error)}") from error


def image_size(path: Path, full: bool = False) -> tuple[int, int]:
    """(width, height) in pixels of the image at ``path``, after making sure that the file is whole.

    A JPEG or PNG that ends with its end mark is taken for whole; any other file, and with ``full`` every
    file, is decoded. Raises DataError with the reason where the file is missing, truncated, or no image.
    """
    try:
        with Image.open(path) as image:
            size = image.size
            mark = _END_MARKS.get(image.format or "")
            if full or mark is None or not _ends_with(path, mark):
                image.load()
        return size
    except _DAMAGE as error:
        raise DataError(_reason(error)) from error


def _ends_with(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - len(mark)))
        return file.read() == mark


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or an empty or damaged one"
    return " ".join(str(error).split()) or type(error).__name__
