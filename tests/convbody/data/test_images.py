import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from convbody.data.errors import DataError
from convbody.data.images import ImageRules, look_at, read_rgb
from registry import ConfigError, load_cfg

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
    assert read_rgb(path).size == look_at(path).size == (30, 20)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_truncated_images_are_found_by_reading_and_by_looking(tmp_path: Path, suffix: str):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(noise))
    assert look_at(path).size == (64, 64)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError):
        look_at(path)
    with pytest.raises(DataError, match=f"a.{suffix}"):
        read_rgb(path)


def test_a_file_with_something_behind_its_end_is_whole(tmp_path: Path):
    path = save(tmp_path / "a.jpg", Image.fromarray(COLOUR))
    path.write_bytes(path.read_bytes() + b"camera maker's note")
    assert look_at(path).size == (16, 16)


def test_only_a_full_look_finds_damage_inside(tmp_path: Path):
    path = save(tmp_path / "a.png", Image.fromarray(COLOUR))
    content = bytearray(path.read_bytes())
    middle = content.index(b"IDAT") + 20
    content[middle : middle + 8] = b"\xff" * 8
    path.write_bytes(content)
    assert look_at(path).size == (16, 16)
    with pytest.raises(DataError):
        look_at(path, full=True)


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


def test_other_places_than_files_are_named_in_one_line(tmp_path: Path):
    (tmp_path / "folder.jpg").mkdir()
    for path, reason in (
        (tmp_path / "folder.jpg", "Is a directory"),
        (tmp_path / ("a" * 300 + ".jpg"), "File name too long"),
        (tmp_path / "two\nlines.jpg", "two\\\\nlines.jpg: no such file"),
        (tmp_path / "a\0b.jpg", "embedded null"),
    ):
        with pytest.raises(DataError, match=reason) as caught:
            read_rgb(path)
        assert "\n" not in str(caught.value)


def test_names_need_not_be_text(tmp_path: Path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    Image.fromarray(COLOUR).save(path, format="PNG")
    assert read_rgb(path).size == look_at(path).size == (16, 16)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="caf.*: not an image") as caught:
        read_rgb(path)
    str(caught.value).encode()


def test_more_pixels_than_allowed_are_refused_and_the_key_is_named(tmp_path: Path, recwarn):
    path = save(tmp_path / "a.png", Image.fromarray(COLOUR))
    reason = r"more than 255 pixels, the limit that INPUT\.MAX_PIXELS sets"
    for limit in (255, 100):  # a little and much too large are two roads in Pillow
        with pytest.raises(DataError, match="pixels, the limit that INPUT"):
            look_at(path, rules=ImageRules(max_pixels=limit))
    with pytest.raises(DataError, match=f"a.png: {reason}"):
        read_rgb(path, ImageRules(max_pixels=255))
    for limit in (256, 0):
        assert read_rgb(path, ImageRules(max_pixels=limit)).size == (16, 16)
    assert not recwarn.list


def test_the_limit_is_ours_while_we_read_and_pillows_again_afterwards(tmp_path: Path, monkeypatch, recwarn):
    path = save(tmp_path / "a.png", Image.fromarray(COLOUR))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with ThreadPoolExecutor(4) as pool:
        sizes = [read.size for read in pool.map(read_rgb, [path] * 40)]
    assert sizes == [(16, 16)] * 40
    assert Image.MAX_IMAGE_PIXELS == 100 and not recwarn.list
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(save(tmp_path / "b.png", Image.new("L", (16, 12))))


def test_rules_come_from_the_config():
    assert ImageRules.of(load_cfg(None)) == ImageRules()
    changed = load_cfg(None, ["DATASETS.EXIF", "apply", "INPUT.MAX_PIXELS", 9])
    assert ImageRules.of(changed) == ImageRules("apply", 9)
    with pytest.raises(ConfigError, match=r"choose one of auto, apply, ignore.*DATASETS\.EXIF = 'turn'"):
        ImageRules.of(load_cfg(None, ["DATASETS.EXIF", "turn"]))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "gif", "bmp", "jp2", "ppm"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_of_any_kind_is_a_data_error_or_an_image(tmp_path: Path, suffix: str, data: st.DataObject):
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(COLOUR))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, min(len(content) - 1, 400)))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(
        content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    )
    rules = ImageRules("apply", max_pixels=1_000_000)
    for look in (read_rgb, look_at):
        try:
            look(path, rules=rules)
        except DataError as error:
            assert "\n" not in str(error)
