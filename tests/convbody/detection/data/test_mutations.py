"""Any file made from a sound COCO file is read, or refused in one line; what is read can be used."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from convbody.detection.data import CocoDataset, read_dataset
from convbody.detection.evaluation.scoring import score
from convbody.detection.evaluation.truth import GroundTruth
from registry import ConvbodyError

SIZES = ((40, 30), (20, 50))
OUTLINE = [[5, 6, 15, 6, 15, 18, 5, 18]]
RUNS = {"size": [30, 40], "counts": [156, 12, *[18, 12] * 9, 762]}
CODE = {"size": [50, 20], "counts": "b1<6000Gb0"}
NAMES = ["nose", "left_eye", "right_eye"]


def sound() -> dict[str, Any]:
    fields = {"image_id": 1, "category_id": 3, "iscrowd": 0, "area": 120, "bbox": [5, 6, 10, 12]}
    points = {"keypoints": [6, 7, 2, 8, 8, 1, 0, 0, 0], "num_keypoints": 2}
    return {
        "info": {"year": 2024},
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": width, "height": height}
            for i, (width, height) in enumerate(SIZES, start=1)
        ],
        "annotations": [
            {"id": 1, **fields, "segmentation": OUTLINE, **points},
            {"id": 2, **fields, "segmentation": RUNS, "iscrowd": 1, **points},
            {"id": 3, **fields, "image_id": 2, "bbox": [1, 1, 8, 8], "segmentation": OUTLINE, **points},
        ],
        "categories": [
            {"id": 7, "name": "cat", "keypoints": NAMES, "keypoint_sigmas": [0.1, 0.1, 0.1]},
            {"id": 3, "name": "dog", "keypoints": NAMES},
        ],
    }


numbers = st.sampled_from(
    [0, 1, 2, 3, 7, -1, 1.5, 0.5, 1e-30, 31, 60, 1e5, 1e9, -1e9, 1e308, -1e308, math.nan, math.inf, -math.inf]
    + [2**31, 2**32, 2**53 + 1, 2**63, 2**64, -(2**64), 10**40, 10**400]
)
texts = st.sampled_from(
    [
        "",
        "1",
        "3",
        "1.0",
        "-1",
        "nan",
        "1e999",
        "x" * 300,
        "a\nb",
        "caf\udce9.png",
        "\ud800",
        "\0",
        "../1.png",
    ]
    + ["..\\1.png", "zz~", "0000", "\u0660", "o" * 30, "9" * 200, "http://[", "\u202e"]
)
leaves = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
values |= st.sampled_from([OUTLINE, RUNS, CODE, [OUTLINE[0]] * 2, [RUNS], [[]]])


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    data = copy.deepcopy(sound())
    for _ in range(draw(st.integers(0, 4))):
        change(draw, data)
    text = json.dumps(data, ensure_ascii=True).encode()
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(text)))
        end = place + draw(st.integers(0, 3))
        text = (
            text[:place]
            + draw(st.binary(max_size=3) | st.sampled_from([b'"', b"NaN", b"[", b"},"]))
            + text[end:]
        )
    return text


def change(draw: st.DrawFn, data: Any) -> None:
    """Replace, remove, add or repeat something at a random place."""
    while True:
        keys = list(data) if isinstance(data, dict) else range(len(data))
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        if isinstance(data[key], dict | list) and draw(st.integers(0, 3)):
            data = data[key]
            continue
        break
    how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "repeat"]))
    if how == "remove":
        del data[key]
    elif how == "add":
        other = draw(st.sampled_from(["id", "coco_url", "width", "keypoints", "x"]))
        if isinstance(data, dict):
            data[other] = copy.deepcopy(draw(values))
        else:
            data.insert(key, copy.deepcopy(draw(values)))
    elif how == "repeat" and isinstance(data, list):
        data.append(copy.deepcopy(data[key]))
    else:
        data[key] = copy.deepcopy(draw(values))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutations")
    for i, size in enumerate(SIZES, start=1):
        Image.new("RGB", size, (90, 120, 30)).save(folder / f"{i}.png")
    return folder


def use(folder: Path, file: Path, how: str, masks: bool, keypoints: bool) -> None:
    records, report = read_dataset(file, folder, how=how, masks=masks, keypoints=keypoints)
    assert "\n" not in str(report) and str(report).isprintable()
    dataset = CocoDataset(folder, file, records=records, masks=masks, keypoints=keypoints)
    objects = [records.objects(i) for i in range(len(dataset))]
    assert sum(map(len, objects)) + len(report.bad_annotations) <= report.annotation_count
    for i in range(len(dataset)):
        dataset.truth(i)["boxes"].tolist()
        if how == "quick":
            dataset[i]
    if not len(dataset):
        return
    truth = GroundTruth(records.images, records.categories, [each for found in objects for each in found])
    for task in ["bbox"] + ["segm"] * masks + ["keypoints"] * keypoints:
        score(truth, [], task, "hotcoco")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents(), st.sampled_from(["quick", "none"]), st.booleans(), st.booleans())
def test_every_file_is_read_or_refused_in_one_line(folder, content, how, masks, keypoints):
    file = folder / "ann.json"
    file.write_bytes(content)
    try:
        use(folder, file, how, masks, keypoints)
    except ConvbodyError as error:
        assert "\n" not in str(error)
