"""From any of Pillow's pixel formats to 8-bit RGB, by one rule for each (docs/data.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

#: Formats that Pillow reads into 32-bit integers although 65,535 is their white.
_SIXTEEN_BITS_IN_32 = ("PNG", "PPM")
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262
_WHITE_IS_ZERO = 0


class PixelError(ValueError):
    """Pixels without an agreed black and white; the message says which."""


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded image as 8-bit RGB.

    Bits, grey, palette, CMYK, YCbCr, HSV and L*a*b* are converted; transparency is dropped, which leaves the
    colour that is stored below it; of more than 8 bits the upper 8 count; floats are taken to be in [0, 1].
    Raises PixelError for floats outside of that, and for 32-bit integers, whose white nobody knows.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BITS_IN_32):
        return _grey(_upright(image, np.asarray(image), 65535) >> (_bits(image) - 8))
    if image.mode == "I":
        raise PixelError("32-bit integers, whose white is not known; convert it to 8 or 16 bits")
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):  # so for NaN, too
            raise PixelError(
                f"floats from {values.min():g} to {values.max():g}, which are read from 0 to 1 only; "
                "convert it to these, or to 8 or 16 bits"
            )
        return _grey((_upright(image, values, 1) * 255).round())
    if image.mode in ("RGBa", "La"):  # colours that are multiplied by their opacity
        image = image.convert(image.mode.upper())
    image.info.pop("transparency", None)  # which would be tried to keep
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")


def _bits(image: Image.Image) -> int:
    """Bits of a grey pixel: 16, or what a TIFF says, 12 for instance."""
    return int(_tag(image, _TIFF_BITS, (16,))[0])


def _upright(image: Image.Image, values: np.ndarray, white: int) -> np.ndarray:
    """``values`` with black at 0: some TIFFs have white there, which Pillow mends for 8 bits alone."""
    return white - values if _tag(image, _TIFF_PHOTOMETRIC, 1) == _WHITE_IS_ZERO else values


def _tag(image: Image.Image, number: int, default: Any) -> Any:
    return getattr(image, "tag_v2", {}).get(number, default)
