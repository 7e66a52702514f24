"""What reading a COCO file takes and what it refuses, on a file of two images and two annotations."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convbody.detection.data import DataError, read_dataset
from convbody.detection.data.masks import compress, decode_mask
from convbody.detection.data.report import DatasetReport
from convbody.detection.data.tables import Records

GOOD = {"image_id": 1, "category_id": 3, "bbox": [5, 6, 10, 12], "segmentation": [[5, 6, 15, 6, 15, 18]]}
SECOND = {"image_id": 2, "category_id": 7, "bbox": [1, 1, 8, 8]}
Change = Callable[[dict[str, Any]], Any]


class Files:
    """The content of a COCO file that tests change before it is read."""

    def __init__(self, ann_file: Path) -> None:
        self.ann_file, self.images = ann_file, ann_file.parent / "images"
        self.data = json.loads(ann_file.read_text())

    def read(self, how: str = "quick", **needed: bool) -> tuple[Records, DatasetReport]:
        self.ann_file.write_text(json.dumps(self.data))
        return read_dataset(self.ann_file, self.images, name="mine", how=how, **needed)


@pytest.fixture
def files(make_dataset) -> Files:
    return Files(make_dataset([GOOD, SECOND], sizes=((40, 30), (20, 50))))


def annotation(**changes: Any) -> Change:
    return lambda data: data["annotations"][0].update(changes)


def image(**changes: Any) -> Change:
    return lambda data: data["images"][0].update(changes)


def without(section: str, field: str) -> Change:
    return lambda data: [entry.pop(field, None) for entry in data[section]]


def ids(image_id: Any, category_id: Any) -> Change:
    """The first image and category have these ids, in their own lists and where they are used."""

    def change(data: dict[str, Any]) -> None:
        data["images"][0]["id"] = data["annotations"][0]["image_id"] = image_id
        data["categories"][1]["id"] = data["annotations"][0]["category_id"] = category_id

    return change


HARMLESS: dict[str, Change] = {
    "as it is": lambda data: None,
    "ids as text": ids("scene 1", "dog"),
    "ids as long numbers": ids(2**128 - 1, 2**127),
    "ids as hex": ids("0000a1b2", "/m/01yrx"),
    "ids with a point": ids(1.0, 3.0),
    "ids below zero": ids(-1, -7),
    "ids as numbers here and as text there": annotation(image_id="1", category_id="3"),
    "annotation ids absent": without("annotations", "id"),
    "annotation ids as text": lambda data: [a.update(id=f"a{a['id']}") for a in data["annotations"]],
    "iscrowd null": annotation(iscrowd=None),
    "iscrowd NaN": annotation(iscrowd=math.nan),
    "iscrowd as text": annotation(iscrowd="0"),
    "iscrowd as bool": annotation(iscrowd=False),
    "area null": annotation(area=None),
    "area NaN": annotation(area=math.nan),
    "area as text": annotation(area="120"),
    "a segmentation of null": annotation(segmentation=None),
    "an empty polygon": annotation(segmentation=[[]]),
    "points as pairs": annotation(segmentation=[[1, 1], [9, 1], [9, 9]]),
    "a mask that is none": annotation(segmentation={"size": "x", "counts": {}}),
    "a far polygon that nobody needs": annotation(segmentation=[[1e9, 1e9, 1e30, 4, 5, 6]]),
    "keypoints null": annotation(keypoints=None, num_keypoints=None),
    "keypoints of any kind": annotation(keypoints="none", num_keypoints=[1]),
    "width and height as text": image(width="40", height="30.0"),
    "width and height with a point": image(width=40.0, height=30.0),
    "width and height null": image(width=None, height=None),
    "width and height zero": image(width=0, height=0),
    "width absent": without("images", "width"),
    "CVAT's fields": image(license=0, flickr_url="", coco_url="", date_captured=0),
    "fields of any type": lambda data: [
        entry.update(license=[{}], date_captured=None, attributes={"id": [1, "x", None]}, coco_url=7)
        for entry in (*data["images"], *data["annotations"], *data["categories"])
    ],
    "category names as numbers": lambda data: data["categories"][0].update(name=7, supercategory=None),
    "a category that nothing uses": lambda data: data["categories"].append({"id": 0, "name": "root"}),
    "no info, other lists": lambda data: data.update(info=None, licenses=0, extra=[[[]]]),
    "LVIS's address for a name": lambda data: data["images"][0].update(
        coco_url=f"http://images.example/train2017/{data['images'][0].pop('file_name')}"
    ),
    "backslashes": image(file_name="..\\images\\1.png"),
}


@pytest.mark.parametrize("how", ["quick", "none"])
@pytest.mark.parametrize("kind", HARMLESS)
def test_harmless_spellings_mean_the_same(files: Files, kind: str, how: str):
    HARMLESS[kind](files.data)
    records, report = files.read(how)
    assert report.ok, str(report)
    assert [(i.width, i.height) for i in records.images] == [(40, 30), (20, 50)]
    assert (files.images / records.images[0].file_name).is_file()
    (first,), (second,) = records.objects(0), records.objects(1)
    assert (first.bbox, first.area, first.iscrowd) == ((5, 6, 10, 12), 120, False)
    assert (first.segmentation, first.keypoints) == (None, None)
    assert first.image_id == records.images[0].id and second.image_id == records.images[1].id
    names = {category.id: category.name for category in records.categories}
    assert names[first.category_id] == "dog" and names[second.category_id] in ("cat", "7")


def test_ids_lead_back_to_the_file(files: Files):
    ids("scene 1", 2**127)(files.data)
    files.data["images"][1]["id"] = files.data["annotations"][1]["image_id"] = "2"
    records, report = files.read()
    assert report.ok, str(report)
    assert [image.id for image in records.images] == [3, 2], "numbers stay, others come behind them"
    assert records.original_images == {3: "scene 1", 2: "2"}
    assert records.original_categories == {8: 2**127}


def test_a_null_list_of_annotations_is_an_empty_one(files: Files):
    files.data["annotations"] = None
    records, report = files.read()
    assert report.ok and len(records.images) == 2 and records.objects(0) == []


MISTAKES: dict[str, tuple[Change, str]] = {
    "box that is empty": (annotation(bbox=[5, 6, 0, 12]), "$.annotations[0].bbox"),
    "box that is inverted": (annotation(bbox=[5, 6, -3, 12]), "[5.0, 6.0, -3.0, 12.0] in 40x30"),
    "box more than 1 pixel outside of the image": (annotation(bbox=[5, 6, 10, 112]), "in 40x30"),
    "box  more than 1 pixel outside": (annotation(bbox=[1e308, 6, 1e308, 1]), "1e+308"),
    "annotations[].bbox[] of another type (expected float, got null or NaN)": (
        annotation(bbox=[5, 6, math.nan, 12]),
        "$.annotations[0].bbox[2]",
    ),
    "annotations[].bbox[] of another type (number out of range)": (
        annotation(bbox=[5, 6, 7, math.inf]),
        "$.annotations[0].bbox[3]",
    ),
    "annotations[].bbox of another type (expected array of length 4)": (
        annotation(bbox=[5, 6, 12]),
        "$.annotations[0].bbox",
    ),
    "annotation without a box": (annotation(bbox=None), "$.annotations[0].bbox"),
    "annotations[] of another type (expected object, got int)": (
        lambda data: data["annotations"].insert(0, 5),
        "$.annotations[0]",
    ),
    "annotation of an unknown category": (annotation(category_id=99), "$.annotations[0].category_id (99)"),
    "annotation of an unknown image": (annotation(image_id="no"), "$.annotations[0].image_id ('no')"),
    "image without an id": (annotation(image_id=math.nan), "$.annotations[0].image_id"),
    "category id that is neither a whole number nor text": (annotation(category_id=3.5), "(3.5)"),
    "annotations[].image_id of another type": (annotation(image_id=[1]), "$.annotations[0].image_id"),
    "annotations[].category_id of another type": (annotation(category_id=True), ".category_id"),
    "annotations[].id of another type": (annotation(id={}), "$.annotations[0].id"),
    "annotation id given twice": (annotation(id="2"), "$.annotations[1].id (2)"),
    "iscrowd that is neither 0 nor 1": (annotation(iscrowd="maybe"), "'maybe'"),
    "annotations[].iscrowd of another type": (annotation(iscrowd=[0]), ".iscrowd"),
    "area below zero": (annotation(area=-4), "$.annotations[0].area (-4)"),
    "area that is no number": (annotation(area="large"), "'large'"),
    "annotations[].area of another type (number out of range)": (annotation(area=math.inf), ".area"),
    "image id given twice": (lambda data: data["images"].append(data["images"][0]), "$.images[2].id (1)"),
    "images[].id of another type": (lambda data: data["images"].append({"id": []}), "$.images[2].id"),
    "image entry without file_name": (
        lambda data: data["images"].append({"id": 9, "coco_url": "http://[x"}),
        "$.images[2].file_name",
    ),
    "image height below zero": (image(height=-30), "$.images[0].height (-30)"),
    "image width that is no whole number": (image(width="wide"), "$.images[0].width ('wide')"),
    "image of 2147483648 pixels or more": (image(width=10**30, height=0), "$.images[0]"),
    "image missing": (image(file_name="none\n.png"), r"none\n.png"),
    "image of another size than its entry says": (image(width=41), "is 40x30, not 41x30"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_every_mistake_is_found_counted_and_can_be_left_out(files: Files, kind: str):
    change, says = MISTAKES[kind]
    kind = " ".join(kind.split())
    change(files.data)
    records, report = files.read()
    (found,) = (problem for problem in report.problems if problem.startswith(kind))
    assert report.problems[found].count == 1
    assert str(report).startswith("data set 'mine': ") and "\n" not in str(report)
    assert any(line.startswith(f"1 x {found}: $.") and says in line for line in report.kinds)
    left = sum(len(records.objects(i)) for i in range(len(records.images)))
    bad = len(report.bad_images) + len(report.bad_annotations)
    assert bad and left < len(files.data["annotations"]) or len(records.images) < len(files.data["images"])


def box_mask(**changes: Any) -> Change:
    """The second annotation has a mask, too, and the first one's is changed."""

    def change(data: dict[str, Any]) -> None:
        data["annotations"][1]["segmentation"] = {"size": [50, 20], "counts": [50, 8, 942]}
        data["annotations"][0].update(changes)

    return change


MASKS: dict[str, tuple[Any, str]] = {
    "annotation without a mask, which MODEL.MASK_ON needs": (None, "$.annotations[0].segmentation"),
    "annotation without a mask": ([[]], "$.annotations[0].segmentation"),
    "polygon under 3 points": ([[5, 6, 15, 6]], "[5.0, 6.0, 15.0, 6.0]"),
    "polygon  under 3 points": ([[5, 6, 15, 6, 7, 8, 9]], "9.0]"),
    "annotations[].segmentation[][] of another type (expected float, got null or NaN)": (
        [[5, 6, 15, math.nan, 7, 8]],
        "$.annotations[0].segmentation[0][3]",
    ),
    "annotations[].segmentation[] of another type": ([1, 2, 3, 4, 5, 6], ".segmentation[0]"),
    "annotations[].segmentation of another type": ("5 6 15 6 15 18", ".segmentation"),
    "polygon more than 1 image side outside of the image": ([[5, 6, 1e9, 6, 15, 18]], "1e+09 in 40x30"),
    "polygon more than 1 image side  outside of the image": ([[5, -1e300, 9, 6, 15, 18]], "-1e+300 in 40x30"),
    "mask with an outline longer than 2e+06 pixels": ([[0, 0, 40, 30] * 30_000], "2.4e+06"),
    "run-length code of another size than its image": (
        {"size": [40, 30], "counts": [1200]},
        "40x30, height first, in 30x40",
    ),
    "run-length code that does not cover its image": ({"size": [30, 40], "counts": [1000, 100]}, ".counts"),
    "run-length  code that does not cover its image": ({"size": [30, 40], "counts": "zz~"}, "(40x30)"),
    "run-length code that  does not cover its image": ({"size": [30, 40], "counts": ""}, ".counts"),
    "run-length code  that does not cover its image": ({"size": [30, 40], "counts": "Ŕ"}, ".counts"),
    "annotations[].segmentation.counts[] of another type": (
        {"size": [30, 40], "counts": [1200, None]},
        ".counts[1]",
    ),
    " run-length code that does not cover its image": (
        {"size": [30, 40], "counts": [1199.5, 0.5]},
        ".counts",
    ),
    "annotations[].segmentation.size of another type": ({"size": 3, "counts": [2]}, ".size"),
    "several run-length codes for one annotation": (
        [{"size": [30, 40], "counts": [1200]}, {"size": [30, 40], "counts": [1200]}],
        ".segmentation",
    ),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_are_checked_where_they_are_needed(files: Files, kind: str):
    segmentation, says = MASKS[kind]
    kind = " ".join(kind.split())
    box_mask(segmentation=segmentation)(files.data)
    assert files.read()[1].ok, "nobody needs it"
    records, report = files.read(masks=True)
    assert report.bad_annotations == {0} and list(report.problems)[0].startswith(kind)
    assert says in str(report)
    assert records.objects(0) == [] and len(records.objects(1)) == 1


@pytest.mark.parametrize(
    "segmentation",
    [
        [[5, 6, 15, 6, 15, 18, 5, 18]],
        [[], [5, 6, 15, 6, 15, 18, 5, 18]],
        {"size": [30, 40], "counts": [156, 12, *[18, 12] * 9, 762]},
        [{"size": [30.0, 40], "counts": [156, 12, *[18, 12.0] * 9, 762]}],
        {"size": [30, 40], "counts": compress([156, 12, *[18, 12] * 9, 762], 30, 40).decode()},
    ],
)
def test_masks_of_every_form_are_the_same_mask(files: Files, segmentation: Any):
    box_mask(segmentation=segmentation)(files.data)
    records, report = files.read(masks=True)
    assert report.ok, str(report)
    mask = decode_mask(records.objects(0)[0].segmentation, 30, 40)
    wanted = np.zeros((30, 40), np.uint8)
    wanted[6:18, 5:15] = 1
    np.testing.assert_array_equal(mask, wanted)


def test_a_box_may_end_within_a_pixel_of_the_border(files: Files):
    annotation(bbox=[-0.4, 6, 40.9, 24.5])(files.data)
    assert files.read()[1].ok


def test_truncated_images_are_found_and_leave_with_their_annotations(files: Files):
    path = files.images / "1.png"
    path.write_bytes(path.read_bytes()[:1000])
    records, report = files.read()
    assert list(report.problems) == ["image that cannot be read"] and str(path) in str(report)
    assert not report.bad_annotations
    assert [image.id for image in records.images] == [2]
    assert [each.image_id for each in records.objects(0)] == [2]


def test_images_are_left_alone_where_asked_for(files: Files):
    (files.images / "1.png").unlink()
    assert files.read("none")[1].ok
    without("images", "width")(files.data)
    assert list(files.read("none")[1].problems) == ["image missing"]


def test_the_report_counts_all_and_shows_the_first_few(files: Files):
    files.data["annotations"] += [{**GOOD, "id": 100 + i, "bbox": [0, 0, 0, 0]} for i in range(9)]
    text = str(files.read()[1])
    assert "9 of 11 annotations" in text
    assert "9 x box that is empty: $.annotations[2].bbox (" in text and "$.annotations[4]" in text
    assert "$.annotations[5]" not in text and text.endswith(", ...")


PEOPLE = [{"id": 1, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]}]
PERSON = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}


def person(make_dataset, **fields: Any) -> Files:
    return Files(make_dataset([{**PERSON, **fields}], categories=PEOPLE))


@pytest.mark.parametrize(
    ("keypoints", "points"),
    [
        ([1, 2, 2, 3, 4, 1, 5, 6, 0], [[1, 2, 2], [3, 4, 1], [0, 0, 0]]),
        ([1, 2, 2, None, None, None, None, 6, 0], [[1, 2, 2], [0, 0, 0], [0, 0, 0]]),
        ([], None),
        (None, None),
    ],
)
def test_keypoints_that_nobody_labelled_may_be_absent(make_dataset, keypoints, points):
    records, report = person(make_dataset, keypoints=keypoints).read(keypoints=True)
    assert report.ok, str(report)
    (found,) = records.objects(0)
    assert (found.keypoints.tolist() if found.keypoints is not None else None) == points
    assert found.num_keypoints == sum(point[2] > 0 for point in points or [])
    assert records.categories[0].keypoints == ("nose", "left_eye", "right_eye")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"keypoints": [1, 1, 2] * 2}, "6 numbers for 3 names"),
        ({"keypoints": [1, 1, 2, 1]}, "4 numbers for 3 names"),
        ({"keypoints": [1, 1, 3, 0, 0, 0, 0, 0, 0]}, r"$.annotations[0].keypoints[2] (3.0)"),
        ({"keypoints": [1, 1, 2, 0, None, 1, 0, 0, 0]}, r"$.annotations[0].keypoints[3]"),
        ({"keypoints": [1, 1e9, 2, 0, 0, 0, 0, 0, 0]}, "keypoint more than 1 image side outside"),
        ({"keypoints": [1, "1", 2] * 3}, "$.annotations[0].keypoints[1]"),
        ({"num_keypoints": -1}, "number of keypoints that is no whole number from 0"),
        ({"num_keypoints": {}}, "$.annotations[0].num_keypoints"),
    ],
)
def test_keypoints_are_checked_where_they_are_needed(make_dataset, fields, says):
    files = person(make_dataset, **fields)
    assert files.read()[1].ok, "nobody needs them"
    report = files.read(keypoints=True)[1]
    assert report.bad_annotations == {0} and says in str(report)


@pytest.mark.parametrize(
    ("categories", "says"),
    [
        ([{"id": 3, "name": "a"}, {"id": 3, "name": "b"}], r"1 x category id given twice: .*\[1\].id \(3\)"),
        ([{"id": 3, "name": "a"}, {"id": "3", "name": "b"}], r"category id given twice: .*\('3'\)"),
        ([{"id": 3}, {"id": 4, "name": None}], r"2 x category without a name: \$.categories\[0\].name"),
        ([{"name": "a"}, 7], r"1 x category without an id: .*; 1 x categories\[\] of another type"),
        ([{"id": [], "name": "a"}], r"\$.categories\[0\].id"),
    ],
)
def test_categories_that_cannot_be_told_apart_end_the_reading(files: Files, categories: list, says: str):
    files.data["categories"] = categories
    with pytest.raises(DataError, match=says) as caught:
        files.read()
    assert "\n" not in str(caught.value) and str(files.ann_file) in str(caught.value)
