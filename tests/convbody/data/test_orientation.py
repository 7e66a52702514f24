"""The same picture as cameras store it in all eight orientations, in the formats that carry EXIF data."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convbody.data.images import ImageRules, look_at, read_rgb
from convbody.data.orientation import turn, turn_back

UPRIGHT = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
SIZE = UPRIGHT.size
APPLY, IGNORE, AUTO = map(ImageRules, ("apply", "ignore", "auto"))


def store(path: Path, orientation: int, exif: bytes | None = None) -> Image.Image:
    """Writes the picture as a camera held so stores it; gives what is stored."""
    stored = turn_back(UPRIGHT, orientation)
    data = Image.Exif()
    data[0x0112] = orientation
    options = {"tiffinfo": {0x0112: orientation}} if path.suffix == ".tif" else {"exif": exif or data}
    if path.suffix == ".webp":
        options["lossless"] = True
    stored.save(path, **options)
    return stored


def late_exif(path: Path) -> None:
    """Moves a PNG's EXIF chunk behind its pixels, where the standard allows it."""
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    last = content.index(b"IEND") - 4
    path.write_bytes(content[:start] + content[end:last] + content[start:end] + content[last:])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "late.png", "a.webp", "a.tif"])
def test_an_image_is_turned_or_left_as_it_is_stored(tmp_path: Path, name: str, orientation: int):
    path = tmp_path / name
    stored = store(path, orientation)
    if name == "late.png":
        late_exif(path)
    quarter = orientation >= 5
    for rules, told, turned in (
        (APPLY, None, True),
        (APPLY, stored.size, True),
        (IGNORE, None, False),
        (IGNORE, SIZE, False),
        (AUTO, None, False),
        (AUTO, stored.size, False),
        (AUTO, SIZE, quarter),
        (AUTO, (1, 2), False),
    ):
        wanted = UPRIGHT if turned else stored
        np.testing.assert_array_equal(np.asarray(read_rgb(path, rules, told)), np.asarray(wanted))
        look = look_at(path, rules=rules, told=told)
        assert look.size == wanted.size
        assert look.orientation == orientation and look.applied == (orientation if turned else 1)
        assert look.told_by_size == quarter


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpegs_are_turned_alike(tmp_path: Path, orientation: int):
    store(tmp_path / "a.jpg", orientation)
    stored = Image.open(tmp_path / "a.jpg").convert("RGB")
    np.testing.assert_array_equal(
        np.asarray(read_rgb(tmp_path / "a.jpg", APPLY)), np.asarray(turn(stored, orientation))
    )


NINE = b"\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0"  # a directory whose only entry is an orientation of 9


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0" + b"\xff" * 4, b"Exif\0\0MM\0*\0\0\0\x08" + NINE]
)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_broken_exif_data_say_nothing(tmp_path: Path, suffix: str, exif: bytes, recwarn):
    path = tmp_path / f"a{suffix}"
    store(path, 1, exif)
    assert look_at(path, rules=APPLY).orientation == 1
    assert read_rgb(path, APPLY).size == SIZE
    assert not recwarn.list


def test_an_orientation_in_xmp_counts(tmp_path: Path):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    turn_back(UPRIGHT, 6).save(tmp_path / "a.jpg", xmp=xmp)
    assert look_at(tmp_path / "a.jpg", rules=APPLY).size == SIZE


def test_a_png_without_exif_data_is_not_decoded_to_look_for_them(tmp_path: Path):
    path = tmp_path / "a.png"
    UPRIGHT.save(path)
    content = path.read_bytes()
    start = content.index(b"IDAT")
    length = int.from_bytes(content[start - 4 : start], "big")
    broken = b"IDAT" + bytes(length)
    path.write_bytes(
        content[:start] + broken + zlib.crc32(broken).to_bytes(4, "big") + content[start + 8 + length :]
    )
    assert look_at(path).size == SIZE
