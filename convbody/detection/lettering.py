"""Class names as they are drawn: in letters that a font has, on one line, short enough for the picture."""

from __future__ import annotations

import io
import lzma
import unicodedata
from functools import cache
from importlib.resources import files

from PIL import ImageFont

from registry.errors import printable

_UNIFONT = "fonts/unifont-15.0.01.otf.xz"
_GRID = 16  # pixels: Unifont's letters are drawn on squares of them
_SUBSTITUTE = "\u25a1"  # an empty square: for emoji and rare characters, which Unifont lacks
_LONGEST = 40  # characters

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def drawable(text: str) -> str:
    """``text`` as one line of characters that there are letters for, of at most 40 characters."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 3]}..."
    shown = "".join(c for c in text if unicodedata.category(c) != "Cf")  # what joins letters, and the like
    return "".join(c if c <= "\uffff" else _SUBSTITUTE for c in printable(shown))


def font_for(text: str, size: float) -> Font:
    """A font that has the letters of ``text``, about ``size`` pixels high.

    Pillow's own has those of English. GNU Unifont has those of every script in Unicode's basic plane; they do
    not join as those of Arabic and of Indian scripts should, unless Pillow comes with libraqm.
    """
    return ImageFont.load_default(size) if text.isascii() else _unifont(_GRID * max(1, round(size / _GRID)))


def label(name: str, score: str, size: float, room: float) -> tuple[str, Font]:
    """Name and score with the font to draw them in; the name is cut so that both fit into ``room`` pixels."""
    name = whole = drawable(name)
    font = font_for(name, size)
    text = f"{name} {score}".strip()
    while name and font.getlength(text) > room:
        name = name[:-1]
        text = f"{name}... {score}".strip()
    return text, font if name == whole else font_for(text, size)


@cache
def _unifont(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(io.BytesIO(_unifont_file()), size)


@cache
def _unifont_file() -> bytes:
    return lzma.decompress(files(__package__).joinpath(_UNIFONT).read_bytes())
