"""The image files to detect objects in, and what the files with the results are called."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from registry import ConvbodyError
from registry.errors import printable

#: Endings, in lower case, of the files in a folder that are taken for images.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}
    | {".jp2", ".avif"}
)
_LONGEST_STEM = 200  # bytes: a name has 255 on most file systems, and something is added


def find_images(words: Sequence[str]) -> Iterator[Path]:
    """The image files that ``words`` name: files, folders (the images in them), or glob patterns, in order.

    Folders inside of folders are left out. Raises ConvbodyError for a word that names nothing.
    """
    if not words:
        raise ConvbodyError("no image given; name files, folders or patterns such as 'photos/*.jpg'")
    for word in words:
        # Not Path.exists and the like, which raise errors for names that are too long.
        is_folder = os.path.isdir(word)
        if is_folder:
            names = [name for name in sorted(os.listdir(word)) if Path(name).suffix.lower() in IMAGE_SUFFIXES]
            found = [os.path.join(word, name) for name in names]
        else:
            found = [word] if os.path.lexists(word) else sorted(glob.glob(word, recursive=True))
        # Folders and pipes are left out; a link that leads nowhere is named when it is read.
        files = [Path(name) for name in found if os.path.isfile(name) or not os.path.exists(name)]
        if not files:
            what = "no image in this folder" if is_folder else "no such image"
            raise ConvbodyError(f"{printable(word)}: {what}")
        yield from files


def distinct_stems(files: Sequence[Path]) -> list[str]:
    """Names for the outputs, cut to what file systems take, and numbered where two images have the same."""
    stems, seen = [], Counter[str]()
    for file in files:
        stem = file.stem
        while len(os.fsencode(stem)) > _LONGEST_STEM:
            stem = stem[:-1]
        seen[stem] += 1
        number = f"_{seen[stem]}" if seen[stem] > 1 else ""
        stems.append(f"{stem}_detections{number}")
    return stems


def as_text(file: Path) -> str:
    """The path, with escapes for bytes that are no UTF-8, which JSON cannot hold."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")
