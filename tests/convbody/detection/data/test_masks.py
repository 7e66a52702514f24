import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from convbody.detection.data import masks
from convbody.detection.data.masks import compress, decode_mask, outlines, unsound_codes
from convbody.detection.data.records import RunLengths

# Columns 2 to 4 of rows 1 to 3, in an image of 5 rows and 6 columns.
RECTANGLE = np.zeros((5, 6), np.uint8)
RECTANGLE[1:4, 2:5] = 1


def runs_of(mask: np.ndarray) -> list[int]:
    """The lengths of the runs, column by column, starting with zeros."""
    pixels = mask.flatten(order="F")
    ends = np.flatnonzero(np.diff(pixels, prepend=0, append=2))
    return np.diff(ends, prepend=0).tolist()


def code_of(mask: np.ndarray) -> bytes:
    return coco_mask.encode(np.asfortranarray(mask))["counts"]


def check(codes: list[bytes], pixels: list[int]) -> list[bool]:
    ends = np.cumsum([len(code) for code in codes])
    return unsound_codes(np.frombuffer(b"".join(codes), np.uint8), ends, np.array(pixels)).tolist()


def reads_as(code: bytes) -> list[int] | None:
    """The runs of a code, number by number; None for what is no code."""
    runs: list[int] = []
    number = shift = 0
    for byte in code:
        bits = byte - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        number -= (1 << shift) if bits & 16 else 0
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number = shift = 0
    return runs if shift == 0 and min(runs, default=0) >= 0 else None


def test_polygons_and_run_lengths_decode_to_the_same_mask():
    polygon = (np.array([2, 1, 5, 1, 5, 4, 2, 4], np.float64),)
    code = compress(runs_of(RECTANGLE), 5, 6)
    for segmentation in (polygon, RunLengths(5, 6, code), RunLengths(5, 6, code_of(RECTANGLE))):
        decoded = decode_mask(segmentation, 5, 6)
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, RECTANGLE)


def test_parts_of_an_object_are_one_mask():
    parts = (np.array([0, 0, 2, 0, 2, 2, 0, 2.0]), np.array([4, 3, 6, 3, 6, 5, 4, 5.0]))
    two = decode_mask(parts, 5, 6)
    assert two.sum() == 8 and two[0, 0] and two[4, 5]


def test_a_run_length_code_of_another_size_is_refused():
    with pytest.raises(ValueError, match="6x5 in 5x6"):
        decode_mask(RunLengths(5, 6, code_of(RECTANGLE)), 6, 5)


@given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_any_mask_survives_its_run_length_code(height, width, random):
    mask = np.array([[random.randint(0, 1) for _ in range(width)] for _ in range(height)], np.uint8)
    code = compress(runs_of(mask), height, width)
    assert code == code_of(mask) and not check([code], [mask.size])[0]
    np.testing.assert_array_equal(decode_mask(RunLengths(height, width, code), height, width), mask)


@pytest.mark.parametrize("runs", [[30, 40], [29], [31, -1], [2**70, 30 - 2**70]])
def test_runs_that_do_not_add_up_are_refused(runs):
    with pytest.raises(ValueError, match="add up"):
        compress(runs, 5, 6)


@pytest.mark.parametrize(
    "code",
    [b"zzzz~~~~~~", b"0000", b"\xff", code_of(RECTANGLE)[:-1], b"o" * 40, b"n" * 3, b"ooooooo0", b"/0"],
)
def test_a_code_that_does_not_fill_its_image_is_found_beside_sound_ones(code):
    sound = code_of(RECTANGLE)
    assert check([sound, code, b"", sound], [30] * 4) == [False, True, False, False]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 40).flatmap(lambda n: st.lists(st.booleans(), min_size=n, max_size=n)),
            st.lists(st.tuples(st.integers(0, 99), st.integers(40, 120)), max_size=2),
        ),
        max_size=6,
    ),
    st.sampled_from([3, 2**22]),
)
def test_codes_are_judged_as_when_read_number_by_number(drawn, chunk):
    codes, pixels = [], []
    for bits, changes in drawn:
        code = bytearray(code_of(np.array(bits, np.uint8).reshape(-1, 1)) if bits else b"")
        for place, byte in changes:
            if code:
                code[place % len(code)] = byte
        codes.append(bytes(code))
        pixels.append(len(bits))
    wanted = [
        bool(code) and sum(reads_as(code) or [-1]) != size for code, size in zip(codes, pixels, strict=True)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "_CHUNK", chunk)
        assert check(codes, pixels) == wanted


def test_outlines_are_closed():
    points = np.array([[0, 0], [4, 0], [4, 3], [1, 1], [5, 9]], np.float64)
    assert outlines(points, np.array([3, 5])).tolist() == [4 + 3 + 4, 8 + 8]
