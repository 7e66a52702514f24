"""Reading image files into RGB, and judging a file without decoding all of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from PIL import Image

from convbody.data.errors import DataError
from convbody.data.orientation import (
    AUTO,
    CHOICES,
    Size,
    orientation_of,
    stored_size,
    to_apply,
    turn,
    turn_back,
    turned_size,
)
from convbody.data.pixels import to_rgb
from registry import Config, ConfigError
from registry.errors import printable

EXIF_KEY, PIXELS_KEY = "DATASETS.EXIF", "INPUT.MAX_PIXELS"

# A file that ends with its format's end mark was written to the end.
_END_MARKS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


@dataclass(frozen=True)
class ImageRules:
    """What a config says of reading images: DATASETS.EXIF, and INPUT.MAX_PIXELS (0: no limit)."""

    exif: str = AUTO
    max_pixels: int = 178_956_970  # twice the limit from which on Pillow warns

    @classmethod
    def of(cls, cfg: Config) -> ImageRules:
        """Those of ``cfg``. Raises ConfigError for a choice that does not exist."""
        if cfg.DATASETS.EXIF not in CHOICES:
            raise ConfigError(f"choose one of {', '.join(CHOICES)}", EXIF_KEY, cfg)
        return cls(cfg.DATASETS.EXIF, cfg.INPUT.MAX_PIXELS)


DEFAULT_RULES = ImageRules()


@dataclass(frozen=True)
class ImageLook:
    """What a look at an image file tells.

    ``size`` (width, height) is that of the image as it will be read. ``orientation``, 1 to 8, is what its
    EXIF data say; ``applied`` is that, too, where the image will be turned, and else 1.
    """

    size: Size
    orientation: int
    applied: int

    @property
    def told_by_size(self) -> bool:
        """Whether turning changes the size, so that annotations tell what their tool has done."""
        return turned_size(self.size, self.orientation) != self.size


def read_rgb(path: Path, rules: ImageRules = DEFAULT_RULES, told: Size | None = None) -> Image.Image:
    """Decode ``path`` to an 8-bit RGB image, of several pictures the first.

    ``convbody.data.pixels.to_rgb`` says how pixels are converted, ``orientation.to_apply`` whether the image
    is turned by its EXIF orientation; ``told`` is the (width, height) that annotations say. Raises DataError
    with the path where the file is missing, damaged, too large, or no image.
    """
    try:
        with _opened(path, rules) as image:
            size, orientation = stored_size(image), orientation_of(image, path)
            applied = to_apply(rules.exif, orientation, size, told)
            image.load()
            picture = to_rgb(image)
            if image.format != "TIFF":
                return turn(picture, applied)
            # Pillow has turned it.
            return picture if applied == orientation else turn_back(picture, orientation)
    except Exception as error:  # Pillow's readers raise whatever they stumble over in a damaged file
        raise DataError(f"cannot read image {printable(str(path))}: {_reason(error, rules)}") from error


def look_at(
    path: Path, full: bool = False, rules: ImageRules = DEFAULT_RULES, told: Size | None = None
) -> ImageLook:
    """What there is to know of the image at ``path`` without decoding it, after making sure that it is whole.

    A JPEG or PNG that ends with its end mark is taken for whole; any other file, and with ``full`` every
    file, is decoded. Raises DataError with the reason where the file is missing, truncated, too large, or no
    image.
    """
    try:
        with _opened(path, rules) as image:
            size, orientation = stored_size(image), orientation_of(image, path)
            applied = to_apply(rules.exif, orientation, size, told)
            mark = _END_MARKS.get(image.format or "")
            if full or mark is None or not _ends_with(path, mark):
                image.load()
                to_rgb(image)
        return ImageLook(turned_size(size, applied), orientation, applied)
    except Exception as error:
        raise DataError(_reason(error, rules)) from error


@contextmanager
def _opened(path: Path, rules: ImageRules) -> Iterator[Image.Image]:
    with _PillowSettings(rules.max_pixels or None), Image.open(path) as image:
        pixels = image.width * image.height
        if rules.max_pixels and pixels > rules.max_pixels:
            raise Image.DecompressionBombError(f"{image.width}x{image.height} is {pixels} pixels")
        yield image


class _PillowSettings:
    """While any thread is inside: our limit of pixels instead of Pillow's, and none of its warnings."""

    _lock = Lock()
    _inside = 0
    _restore = ExitStack()

    def __init__(self, max_pixels: int | None) -> None:
        self._max_pixels = max_pixels

    def __enter__(self) -> None:
        cls = _PillowSettings
        with cls._lock:
            if not cls._inside:
                cls._restore.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                cls._restore.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
                Image.MAX_IMAGE_PIXELS = self._max_pixels
            cls._inside += 1

    def __exit__(self, *exc: object) -> None:
        cls = _PillowSettings
        with cls._lock:
            cls._inside -= 1
            if not cls._inside:
                cls._restore.close()


def _ends_with(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - len(mark)))
        return file.read() == mark


def _reason(error: BaseException, rules: ImageRules) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that Pillow reads, or an empty or damaged one"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {rules.max_pixels} pixels, the limit that {PIXELS_KEY} sets (0: none)"
    if isinstance(error, MemoryError):
        return "not enough memory for its pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return printable(str(error)) or type(error).__name__
