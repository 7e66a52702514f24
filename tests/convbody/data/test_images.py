from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convbody.data.errors import DataError
from convbody.data.images import image_size, read_rgb

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOUR = np.stack([GREY, GREY[::-1], GREY.T], axis=-1)


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def test_colour_is_read_as_it_is(tmp_path: Path):
    path = save(tmp_path / "a.png", Image.fromarray(COLOUR))
    image = read_rgb(path)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), COLOUR)


@pytest.mark.parametrize("depth", [8, 16])
def test_grey_becomes_three_equal_channels(tmp_path: Path, depth: int):
    pixels = GREY if depth == 8 else GREY.astype(np.uint16) * 256 + 17
    image = np.asarray(read_rgb(save(tmp_path / "a.png", Image.fromarray(pixels))))
    np.testing.assert_array_equal(image, np.stack([GREY] * 3, axis=-1))


def test_transparency_is_dropped(tmp_path: Path):
    rgba = np.concatenate([COLOUR, GREY[..., None]], axis=-1)
    np.testing.assert_array_equal(
        np.asarray(read_rgb(save(tmp_path / "a.png", Image.fromarray(rgba)))), COLOUR
    )


def test_palettes_become_colours(tmp_path: Path):
    image = Image.fromarray(COLOUR // 128 * 255).quantize(8)
    read = read_rgb(save(tmp_path / "a.png", image, transparency=b"\x00\x01"))
    np.testing.assert_array_equal(np.asarray(read), np.asarray(image.convert("RGB")))


def test_an_exif_orientation_is_not_applied(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = save(tmp_path / "a.jpg", Image.new("RGB", (30, 20)), exif=exif)
    assert read_rgb(path).size == image_size(path) == (30, 20)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_truncated_images_are_found_by_reading_and_by_looking(tmp_path: Path, suffix: str):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(noise))
    assert image_size(path) == (64, 64)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError):
        image_size(path)
    with pytest.raises(DataError, match=f"a.{suffix}"):
        read_rgb(path)


def test_a_file_with_something_behind_its_end_is_whole(tmp_path: Path):
    path = save(tmp_path / "a.jpg", Image.fromarray(COLOUR))
    path.write_bytes(path.read_bytes() + b"camera maker's note")
    assert image_size(path) == (16, 16)


def test_only_a_full_look_finds_damage_inside(tmp_path: Path):
    path = save(tmp_path / "a.png", Image.fromarray(COLOUR))
    content = bytearray(path.read_bytes())
    middle = content.index(b"IDAT") + 20
    content[middle : middle + 8] = b"\xff" * 8
    path.write_bytes(content)
    assert image_size(path) == (16, 16)
    with pytest.raises(DataError):
        image_size(path, full=True)


def test_missing_empty_and_foreign_files_are_told_apart(tmp_path: Path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    for name, says in (
        ("none.png", "no such file"),
        ("empty.png", "not an image"),
        ("text.png", "not an image"),
    ):
        with pytest.raises(DataError, match=f"{name}: {says}"):
            read_rgb(tmp_path / name)
