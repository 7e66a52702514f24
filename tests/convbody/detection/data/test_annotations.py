import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from convbody.data.errors import DataError
from convbody.detection.data.annotations import (
    clip_box,
    decode_mask,
    flip_order,
    has_area,
    read_annotations,
    run_lengths,
)

# Columns 2 to 4 of rows 1 to 3, in an image of 5 rows and 6 columns.
RECTANGLE = np.zeros((5, 6), np.uint8)
RECTANGLE[1:4, 2:5] = 1


def uncompressed(mask: np.ndarray) -> dict:
    """COCO's run lengths, column by column, starting with zeros."""
    pixels = mask.flatten(order="F")
    ends = np.flatnonzero(np.diff(pixels, prepend=0, append=2))
    counts = np.diff(ends, prepend=0).tolist()
    return {"size": list(mask.shape), "counts": counts}


def compressed(mask: np.ndarray) -> dict:
    code = coco_mask.encode(np.asfortranarray(mask))
    return {"size": code["size"], "counts": code["counts"].decode()}


def test_polygon_and_both_run_length_codes_decode_to_the_same_mask():
    polygon = [[2, 1, 5, 1, 5, 4, 2, 4]]
    for segmentation in (polygon, uncompressed(RECTANGLE), compressed(RECTANGLE)):
        decoded = decode_mask(segmentation, 5, 6)
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, RECTANGLE)


def test_parts_of_an_object_are_one_mask():
    two = decode_mask([[0, 0, 2, 0, 2, 2, 0, 2], [4, 3, 6, 3, 6, 5, 4, 5]], 5, 6)
    assert two.sum() == 8 and two[0, 0] and two[4, 5]


@given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_any_mask_survives_its_run_length_code(height, width, random):
    mask = np.array([[random.randint(0, 1) for _ in range(width)] for _ in range(height)], np.uint8)
    np.testing.assert_array_equal(decode_mask(uncompressed(mask), height, width), mask)
    np.testing.assert_array_equal(decode_mask(compressed(mask), height, width), mask)
    assert run_lengths(compressed(mask)["counts"]) == run_lengths(uncompressed(mask)["counts"])


@pytest.mark.parametrize("wrong", [None, [], {"size": [6, 5], "counts": [30]}])
def test_what_is_no_mask_of_the_image_is_refused(wrong):
    with pytest.raises(ValueError, match="polygon|size"):
        decode_mask(wrong, 5, 6)


@pytest.mark.parametrize(
    "counts", ["zzzz~~~~~~", "0000", "\xff", [30, 40], [1201, -1], None, compressed(RECTANGLE)["counts"][:-2]]
)
def test_a_run_length_code_that_does_not_cover_its_image_is_refused(counts):
    with pytest.raises(ValueError, match="run-length code"):
        decode_mask({"size": [5, 6], "counts": counts}, 5, 6)


def test_boxes_are_cut_at_the_border():
    box = clip_box((-2, 3, 100, 4), height=30, width=40)
    assert box == (0, 3, 40, 7) and has_area(box)
    assert not has_area(clip_box((50, 3, 5, 4), height=30, width=40))


def test_left_and_right_keypoints_change_places():
    names = ["nose", "left_eye", "right_eye", "left_ear", "right_ear"]
    assert flip_order(names) == [0, 2, 1, 4, 3]
    assert flip_order(["left_hand"]) == [0], "without a partner it stays"


@given(
    st.lists(st.sampled_from(["nose", "left_eye", "right_eye", "left_hip", "right_hip", "tail"]), unique=True)
)
def test_mirroring_twice_restores_the_keypoints(names):
    order = flip_order(names)
    assert [order[i] for i in order] == list(range(len(names)))


def test_a_file_without_annotations_is_a_list_of_images(tmp_path: Path):
    path = tmp_path / "info.json"
    path.write_text(json.dumps({"images": [], "categories": []}))
    assert read_annotations(path)["annotations"] == []


@pytest.mark.parametrize(
    ("content", "says"), [("{", "not JSON"), ("[]", '"images"'), ('{"images": []}', '"cat')]
)
def test_a_file_in_another_format_is_named(tmp_path: Path, content: str, says: str):
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(DataError, match=says) as caught:
        read_annotations(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
