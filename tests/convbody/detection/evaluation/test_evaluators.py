"""hotcoco against pycocotools, on data sets that hypothesis draws: the same to the last digit."""

from __future__ import annotations

import logging
import multiprocessing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_detector import EVERYTHING, OracleDetector, open_shapes, shapes_config
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import Params

from convbody.detection.evaluation import evaluate, evaluate_checkpoint, evaluators
from convbody.detection.evaluation.evaluators import choose_evaluator, compare
from convbody.detection.evaluation.scoring import score
from convbody.detection.train import train_detector
from registry import ConfigError, load_cfg

SIDE, KEYPOINTS = 120, 3
IMAGES, CLASSES = (2, 5, 9), (1, 4)
TASKS = ("bbox", "segm", "keypoints", "proposals")

# Whole numbers meet the thresholds of IoU and the borders of the size ranges; fractions round.
lengths = st.integers(0, 12).map(lambda n: 8 * n) | st.floats(0, 100, width=32).map(lambda x: round(x, 3))
boxes = st.tuples(*[st.integers(0, 20)] * 2, lengths, lengths).map(list)
places = {"image_id": st.sampled_from(IMAGES), "category_id": st.sampled_from(CLASSES)}
visible_points = st.lists(st.tuples(*[st.integers(0, SIDE)] * 2, st.integers(0, 2)), min_size=3, max_size=3)
keypoints = visible_points.map(lambda points: [number for point in points for number in point])
polygons = st.lists(st.lists(st.floats(0, SIDE, width=32), min_size=6, max_size=10), min_size=1, max_size=2)


@st.composite
def masks(draw):
    """Run lengths, compressed, of a box with holes in it."""
    x, y, width, height = (int(number) for number in draw(boxes))
    pixels = np.zeros((SIDE, SIDE), np.uint8, order="F")
    pixels[y : y + height, x : x + width] = 1
    pixels[:: draw(st.integers(2, SIDE))] = 0
    return run_lengths(pixels)


def run_lengths(pixels):
    return {"size": [SIDE, SIDE], "counts": coco_mask.encode(pixels)["counts"].decode()}


@st.composite
def data_sets(draw, task):
    """Ground truth as COCO writes it, and detections, some of which repeat an object."""
    shape = {"segm": {"segmentation": masks()}, "keypoints": {"keypoints": keypoints}}.get(task, {})
    area = {"area": st.sampled_from([0, 32**2, 32**2 + 1, 96**2, 96.5**2, 1e11])}
    objects = st.fixed_dictionaries(
        {
            **places,
            "bbox": boxes,
            "iscrowd": st.sampled_from([0, 0, 1]),
            **({"segmentation": masks() | polygons.map(even)} if task == "segm" else shape),
        },
        optional=area | {"num_keypoints": st.integers(0, 1)} if task == "keypoints" else area,
    )
    annotations = draw(st.lists(objects, max_size=8))
    found = {**places, "score": st.sampled_from([0.0, 0.25, 0.5, 1.0]), "bbox": boxes, **shape}
    records = draw(st.lists(st.fixed_dictionaries(found), max_size=12))
    for annotation in annotations[: draw(st.integers(0, len(annotations)))]:
        copied = {key: annotation[key] for key in found if key in annotation}
        if isinstance(copied.get("segmentation"), dict) or task != "segm":
            records.append({**copied, "score": draw(found["score"])})
    return annotations, records


def even(parts):
    return [part[: len(part) // 2 * 2] for part in parts]


def as_coco(annotations):
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "width": SIDE, "height": SIDE} for i in IMAGES],
        "categories": [{"id": i, "name": str(i), "keypoints": ["a"] * KEYPOINTS} for i in CLASSES],
        "annotations": [{**annotation, "id": n} for n, annotation in enumerate(annotations)],
    }
    coco.createIndex()
    return coco


def assert_agreement(annotations, records, task, image_ids=IMAGES, category_ids=CLASSES):
    scores = [
        score(as_coco(annotations), records, task, image_ids, category_ids, evaluator)
        for evaluator in ("pycocotools", "hotcoco")
    ]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=40)
@given(data=st.data())
def test_scores_agree_to_the_last_digit(task, data):
    assert_agreement(*data.draw(data_sets(task)), task)


@settings(max_examples=20)
@given(drawn=data_sets("bbox"))
def test_arrays_agree_to_the_last_digit(drawn):
    annotations, records = drawn
    both = []
    for evaluator in ("pycocotools", "hotcoco"):
        truth = as_coco(annotations).dataset
        truth["annotations"] = [
            {"area": 64, **annotation, "id": n} for n, annotation in enumerate(annotations, 1)
        ]
        params = Params("bbox")
        params.imgIds, params.catIds = list(IMAGES), list(CLASSES)
        both.append(compare(evaluator, truth, [dict(record) for record in records], params))
    for name in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(both[0].eval[name], both[1].eval[name])


BOX = {"image_id": 2, "category_id": 1, "bbox": [10, 10, 40, 40]}
OTHER = {"image_id": 5, "category_id": 4, "bbox": [30, 20, 60, 50]}


def test_more_detections_than_count_agree():
    crowd = {**OTHER, "iscrowd": 1}
    wrong = {**BOX, "bbox": [70, 70, 20, 20], "score": 0.5}
    records = [wrong] * 99 + [{**BOX, "score": 0.5}] * 3 + [{**OTHER, "score": 0.4}] * 2
    for task in ("bbox", "proposals"):
        assert_agreement([BOX, crowd], records, task)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("annotations", "records"), [(0, 0), (0, 1), (1, 0)])
def test_nothing_to_find_and_nothing_found_agree(task, annotations, records):
    everything = {**BOX, "score": 0.5, "keypoints": [20, 20, 2] * 3}
    everything["segmentation"] = run_lengths(np.ones((SIDE, SIDE), np.uint8, order="F"))
    assert_agreement([everything] * annotations, [everything] * records, task)


def test_only_the_images_and_classes_asked_for_count():
    records = [{**BOX, "score": 0.5}, {**OTHER, "score": 0.7}]
    assert_agreement([BOX, OTHER], records[:1], "bbox", [2], [1])
    assert_agreement([BOX, OTHER], records, "bbox", [9, 2, 5], [4, 1])


def test_what_hotcoco_does_not_take_goes_to_pycocotools_and_is_said(caplog):
    found = [{**BOX, "score": float("nan")}, {**BOX, "score": 0.5}]
    assert_agreement([BOX], found, "bbox")
    assert "scored with pycocotools, because hotcoco does not take scores that are no numbers" in caplog.text
    caplog.clear()
    moved = as_coco([{**BOX, "image_id": -1}])
    moved.dataset["images"].append({"id": -1, "width": SIDE, "height": SIDE})
    moved.createIndex()
    result = score(moved, [{**BOX, "image_id": -1, "score": 0.5}], "bbox", [-1], [1], "hotcoco")
    assert result.metrics["AP"] == pytest.approx(1.0)
    assert "ids below zero" in caplog.text


def test_a_process_forked_after_a_use_does_not_wait_for_threads_that_are_not_there():
    records = [{**BOX, "score": 0.5}]
    wanted = score(as_coco([BOX]), records, "bbox", IMAGES, CLASSES, "hotcoco")
    processes = multiprocessing.get_context("fork")
    results = processes.SimpleQueue()

    def in_child():
        results.put(score(as_coco([BOX]), records, "bbox", IMAGES, CLASSES, "hotcoco"))

    child = processes.Process(target=in_child)
    child.start()
    child.join(timeout=60)
    assert child.exitcode == 0
    assert results.get() == wanted


def config(choice):
    return load_cfg(None, ["TEST.EVALUATOR", choice])


@pytest.mark.parametrize(
    ("installed", "chosen"), [((), "pycocotools"), ((1, 2), "pycocotools"), ((1, 3), "hotcoco")]
)
def test_auto_is_the_fast_one_where_it_is_installed(monkeypatch, installed, chosen):
    monkeypatch.setattr(evaluators, "_installed_version", lambda: installed)
    assert choose_evaluator(load_cfg(None)) == chosen
    assert choose_evaluator(config("pycocotools")) == "pycocotools"


@pytest.mark.parametrize(
    ("installed", "said"), [((), "hotcoco is not installed"), ((0, 4), "hotcoco 0.4 is too old")]
)
def test_an_evaluator_that_is_not_there_is_an_error_with_the_command(monkeypatch, installed, said):
    monkeypatch.setattr(evaluators, "_installed_version", lambda: installed)
    with pytest.raises(ConfigError, match=rf"{said}; pip install 'hotcoco>=1.3'.*TEST\.EVALUATOR") as caught:
        choose_evaluator(config("hotcoco"))
    assert "\n" not in str(caught.value)


def test_an_unknown_evaluator_is_an_error():
    with pytest.raises(ConfigError, match=r"choose one of auto, pycocotools, hotcoco.*TEST\.EVALUATOR"):
        choose_evaluator(config("voc"))


def test_a_detector_is_scored_alike_by_both(shapes, caplog):
    results = []
    with caplog.at_level(logging.INFO, logger="convbody"):
        for choice in ("auto", "pycocotools"):
            cfg = shapes_config(shapes, *EVERYTHING, "TEST.EVALUATOR", choice)
            dataset = open_shapes(shapes, cfg)
            results.append(evaluate(OracleDetector(dataset, blind_to=(2,)), dataset, cfg, "shapes"))
    assert "segm, scored with hotcoco" in caplog.text and "segm, scored with pycocotools" in caplog.text
    fast, reference = results
    assert (fast.metrics, fast.per_class, fast.curves) == (
        reference.metrics,
        reference.per_class,
        reference.curves,
    )
    assert (fast.operating_point, fast.image_f1) == (reference.operating_point, reference.image_f1)


@pytest.mark.parametrize("start", [train_detector, evaluate_checkpoint])
def test_an_evaluator_that_is_not_there_is_said_before_the_work(monkeypatch, start):
    monkeypatch.setattr(evaluators, "_installed_version", lambda: ())
    with pytest.raises(ConfigError, match="hotcoco is not installed"):
        start(config("hotcoco"))
