import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convbody.detection.data import DataError, check_dataset
from convbody.detection.data.check import without_mistakes

GOOD = {"image_id": 1, "category_id": 3, "bbox": [5, 6, 10, 12], "segmentation": [[5, 6, 15, 6, 15, 18]]}
SECOND = {"image_id": 2, "category_id": 7, "bbox": [1, 1, 8, 8]}


@pytest.fixture
def data_and_images(make_dataset) -> tuple[dict[str, Any], Path]:
    ann_file = make_dataset([GOOD, SECOND], sizes=((40, 30), (20, 50)))
    return json.loads(ann_file.read_text()), ann_file.parent / "images"


def test_a_good_data_set_has_nothing_to_report(data_and_images):
    data, images = data_and_images
    for read_images in ("quick", "full", "none"):
        assert check_dataset(data, images, read_images=read_images).ok


def test_a_box_may_end_within_a_pixel_of_the_border(data_and_images):
    data, images = data_and_images
    data["annotations"][0]["bbox"] = [-0.4, 6, 40.9, 24.5]
    assert check_dataset(data, images).ok


def annotation(**changes: Any) -> Callable[[dict], None]:
    return lambda data: data["annotations"][0].update(changes)


MISTAKES = {
    "box that is empty": annotation(bbox=[5, 6, 0, 12]),
    "box that is inverted": annotation(bbox=[5, 6, -3, 12]),
    "box outside of the image": annotation(bbox=[5, 6, 10, 112]),
    "box that is not finite": annotation(bbox=[5, 6, math.nan, 12]),
    "box that is not four numbers": annotation(bbox=[5, 6, 12]),
    "annotation of an unknown category": annotation(category_id=99),
    "annotation of an unknown image": annotation(image_id=99),
    "annotation id missing or given twice": annotation(id=2),
    "polygon under 3 points": annotation(segmentation=[[5, 6, 15, 6]]),
    "polygon that is not finite": annotation(segmentation=[[5, 6, 15, math.inf, 7, 8]]),
    "run-length code of another size than its image": annotation(
        segmentation={"size": [40, 30], "counts": [1200]}
    ),
    "run-length code that does not cover its image": annotation(
        segmentation={"size": [30, 40], "counts": [1000, 100]}
    ),
    "image id given twice": lambda data: data["images"].append(data["images"][0]),
    "image entry without height": lambda data: data["images"][0].pop("height"),
    "image missing": lambda data: data["images"][0].update(file_name="none.png"),
    "image of another size than its entry says": lambda data: data["images"][1].update(width=21),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_every_mistake_is_found_counted_and_can_be_left_out(data_and_images, kind: str):
    data, images = data_and_images
    MISTAKES[kind](data)
    untouched = copy.deepcopy(data)
    report = check_dataset(data, images, name="mine")
    assert not report.ok
    assert report.problems[kind].count == 1
    assert f"1 x {kind}: " in str(report) and "data set 'mine'" in str(report)
    assert check_dataset(without_mistakes(data, report), images).ok
    assert json.dumps(data) == json.dumps(untouched), "checking and leaving out change nothing in place"


def test_truncated_images_are_found_and_leave_with_their_annotations(data_and_images):
    data, images = data_and_images
    path = images / "1.png"
    path.write_bytes(path.read_bytes()[:1000])
    report = check_dataset(data, images)
    assert list(report.problems) == ["image damaged"] and str(path) in str(report)
    left = without_mistakes(data, report)
    assert [image["id"] for image in left["images"]] == [2]
    assert [a["image_id"] for a in left["annotations"]] == [2]


def test_images_are_left_alone_where_asked_for(data_and_images):
    data, images = data_and_images
    (images / "1.png").unlink()
    assert check_dataset(data, images, read_images="none").ok


def test_the_report_counts_all_and_shows_the_first_few(data_and_images):
    data, images = data_and_images
    data["annotations"] += [{**GOOD, "id": 100 + i, "bbox": [0, 0, 0, 0]} for i in range(9)]
    text = str(check_dataset(data, images))
    assert "9 of 11 annotations" in text
    assert "9 x box that is empty: annotation 100 (" in text and "annotation 102" in text
    assert "annotation 103" not in text and text.endswith(", ...")


def test_keypoints_are_three_numbers_for_each_name(make_dataset):
    people = [{"id": 1, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]}]
    person = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}
    ann_file = make_dataset([{**person, "keypoints": [1, 1, 2] * 3}, person], categories=people)
    data = json.loads(ann_file.read_text())
    assert check_dataset(data, ann_file.parent / "images").ok
    data["annotations"][0]["keypoints"] = [1, 1, 2] * 2
    report = check_dataset(data, ann_file.parent / "images")
    assert "6 numbers for 3 names" in str(report)


def test_masks_are_asked_for_only_where_they_are_needed(data_and_images):
    data, images = data_and_images
    report = check_dataset(data, images, masks=True)
    assert report.bad_annotations == {1} and "MODEL.MASK_ON" in str(report)


@pytest.mark.parametrize(
    ("categories", "says"),
    [
        ([{"id": 3, "name": "a"}, {"id": 3, "name": "b"}], "3 is given twice"),
        ([{"id": 3}], "needs an id and a"),
    ],
)
def test_categories_that_cannot_be_told_apart_end_the_check(data_and_images, categories: list, says: str):
    data, images = data_and_images
    with pytest.raises(DataError, match=says):
        check_dataset({**data, "categories": categories}, images)
