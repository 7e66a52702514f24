"""One ramp from black to white in every pixel format: it is read as that ramp, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from convbody.data.errors import DataError
from convbody.data.images import look_at, read_rgb

GREY = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (8, 1))
RGB = np.stack([GREY] * 3, axis=-1)
COLOUR = np.dstack([GREY // 2 + 60, GREY[:, ::-1] // 2 + 60, np.full_like(GREY, 90)])
WIDE = GREY.astype(np.uint16) * 257  # 65,535 is white


def lab(rgb: np.ndarray) -> Image.Image:
    profiles = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
    return ImageCms.applyTransform(Image.fromarray(rgb), ImageCms.buildTransform(*profiles, "RGB", "LAB"))


def with_opacity(mode: str, opacity: int) -> Image.Image:
    return Image.fromarray(np.dstack([RGB if mode == "RGBA" else GREY, np.full_like(GREY, opacity)]), mode)


AS_THEY_ARE = {
    "l.png": Image.fromarray(GREY),
    "la.png": with_opacity("LA", 40),
    "rgba.png": with_opacity("RGBA", 40),
    "rgba.tif": with_opacity("RGBA", 0),
    "p.png": Image.fromarray(GREY).convert("P"),
    "p.gif": Image.fromarray(RGB).quantize(64),
    "rgb.webp": Image.fromarray(RGB),
    "16.png": Image.fromarray(WIDE),
    "16.tif": Image.fromarray(WIDE),
    "16.jp2": Image.fromarray(WIDE),
    "16.pgm": Image.fromarray(WIDE.astype(np.int32)),
    "float.tif": Image.fromarray(GREY.astype(np.float32) / 255),
}


def same(seen: Image.Image, wanted: np.ndarray, tolerance: int = 0) -> None:
    assert seen.mode == "RGB"
    np.testing.assert_allclose(np.asarray(seen).astype(int), wanted.astype(int), atol=tolerance)


@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_a_ramp_is_the_same_ramp_in_every_format(tmp_path: Path, name: str):
    AS_THEY_ARE[name].save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    same(read_rgb(tmp_path / name), RGB)
    assert look_at(tmp_path / name, full=True).size == (64, 8)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("cmyk.jpg", Image.fromarray(COLOUR).convert("CMYK")),
        ("cmyk.tif", Image.fromarray(COLOUR).convert("CMYK")),
        ("ycbcr.tif", Image.fromarray(COLOUR).convert("YCbCr")),
        ("lab.tif", lab(COLOUR)),
    ],
)
def test_other_colour_spaces_are_converted(tmp_path: Path, name: str, image: Image.Image):
    image.save(tmp_path / name, **({"quality": 100, "subsampling": 0} if name.endswith("jpg") else {}))
    same(read_rgb(tmp_path / name), COLOUR, tolerance=6)


def test_one_bit_is_black_and_white(tmp_path: Path):
    Image.fromarray(GREY > 99).save(tmp_path / "1.png")
    same(read_rgb(tmp_path / "1.png"), (RGB > 99) * 255)


def test_sixteen_bits_keep_the_upper_eight_in_both_byte_orders(tmp_path: Path):
    values = GREY.astype(np.uint16) * 256 + 201
    for order in ("<", ">"):
        path = tmp_path / "16.tif"
        path.write_bytes(sixteen_bit_tiff(values, order))
        assert Image.open(path).mode == ("I;16" if order == "<" else "I;16B")
        same(read_rgb(path), RGB)


def sixteen_bit_tiff(values: np.ndarray, order: str, photometric: int = 1, bits: int = 16) -> bytes:
    """An uncompressed grey TIFF, written by hand: Pillow writes one byte order only."""
    height, width = values.shape
    pixels = values.astype(f"{order}u2").tobytes() if bits == 16 else twelve_bits(values)
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height,
            279: len(pixels)}  # fmt: skip
    number = np.dtype(f"{order}u2"), np.dtype(f"{order}u4")
    ifd = np.array(len(tags), number[0]).tobytes()
    for tag, value in tags.items():
        ifd += np.array([tag, 4], number[0]).tobytes() + np.array([1, value], number[1]).tobytes()
    head = (b"II*\0" if order == "<" else b"MM\0*") + np.array(8 + len(pixels), number[1]).tobytes()
    return head + pixels + ifd + bytes(4)


def twelve_bits(values: np.ndarray) -> bytes:
    first, second = values[:, ::2].astype(int), values[:, 1::2].astype(int)
    return (
        np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8).tobytes()
    )


def test_twelve_bits_have_their_own_white(tmp_path: Path):
    (tmp_path / "12.tif").write_bytes(sixteen_bit_tiff(GREY.astype(np.uint16) * 16 + 7, "<", bits=12))
    same(read_rgb(tmp_path / "12.tif"), RGB)


def test_a_tiff_may_have_white_at_zero(tmp_path: Path):
    (tmp_path / "x-ray.tif").write_bytes(sixteen_bit_tiff(65535 - WIDE, "<", photometric=0))
    same(read_rgb(tmp_path / "x-ray.tif"), RGB)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (GREY.astype(np.float32), "floats from 0 to 252, which are read from 0 to 1 only"),
        (GREY.astype(np.float32) / 255 - 0.1, "floats from -0.1 to"),
        (np.where(GREY, GREY / 255, np.nan).astype(np.float32), "floats from nan"),
        (GREY.astype(np.int32), "32-bit integers, whose white is not known"),
        (WIDE.astype(np.int32), "32-bit integers, whose white is not known"),
    ],
)
def test_what_has_no_agreed_white_is_refused_before_training(tmp_path: Path, values: np.ndarray, reason: str):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=f"a.tif: {reason}") as caught:
        read_rgb(tmp_path / "a.tif")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=reason):
        look_at(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.webp", "a.png"])
def test_of_several_pictures_the_first_counts(tmp_path: Path, name: str):
    other = Image.fromarray(255 - RGB)
    Image.fromarray(RGB).save(tmp_path / name, save_all=True, append_images=[other], lossless=True)
    same(read_rgb(tmp_path / name), RGB)
