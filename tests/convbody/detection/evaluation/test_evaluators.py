"""hotcoco against pycocotools, on data sets that hypothesis draws: the same to the last digit."""

from __future__ import annotations

import logging
import multiprocessing

import numpy as np
import pytest
from ground_truth import truth_of
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_detector import EVERYTHING, OracleDetector, open_shapes, shapes_config
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import Params

from convbody.detection.data.records import Category
from convbody.detection.evaluation import evaluate, evaluate_checkpoint, evaluators
from convbody.detection.evaluation.evaluators import choose_evaluator, compare
from convbody.detection.evaluation.scoring import score
from convbody.detection.evaluation.truth import Numbering, scored_records, scored_truth
from convbody.detection.train import train_detector
from registry import ConfigError, ConvbodyError, load_cfg

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


def as_truth(annotations, image_ids=IMAGES, category_ids=CLASSES):
    names = tuple("abc"[:KEYPOINTS])
    return truth_of(annotations, [Category(i, str(i), names) for i in category_ids], image_ids, SIDE)


def assert_agreement(annotations, records, task, image_ids=IMAGES, category_ids=CLASSES):
    truth = as_truth(annotations, image_ids, category_ids)
    scores = [score(truth, records, task, evaluator) for evaluator in ("pycocotools", "hotcoco")]
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
    truth = as_truth(annotations)
    numbering = Numbering.of(truth)
    params = Params("bbox")
    params.imgIds, params.catIds = [1, 2, 3], [1, 2]
    both = [
        compare(
            evaluator,
            scored_truth(truth, numbering, "bbox", 0),
            scored_records(records, numbering, "bbox", 0),
            params,
        )
        for evaluator in ("pycocotools", "hotcoco")
    ]
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


def test_scores_that_are_no_numbers_go_to_pycocotools_and_are_said(caplog):
    found = [{**BOX, "score": float("nan")}, {**BOX, "score": 0.5}]
    assert_agreement([BOX], found, "bbox")
    assert "hotcoco does not take this: scores that are no numbers" in caplog.text
    assert score(as_truth([BOX]), found, "bbox", "hotcoco").evaluator == "pycocotools"


@pytest.mark.parametrize("ids", [(-5, 0, 9), (2**53, -(2**53), 3)])
def test_ids_of_every_kind_score_alike(ids):
    to = dict(zip(IMAGES, ids, strict=True))
    records = [{**BOX, "score": 0.5}, {**OTHER, "score": 0.4}, {**BOX, "image_id": 5, "score": 0.3}]
    wanted = score(as_truth([BOX, OTHER]), records, "bbox", "hotcoco")
    moved = [
        {**each, "image_id": to[each["image_id"]], "category_id": -each["category_id"]} for each in records
    ]
    truth = [
        {**each, "image_id": to[each["image_id"]], "category_id": -each["category_id"]}
        for each in (BOX, OTHER)
    ]
    result = score(as_truth(truth, ids, (-1, -4)), moved, "bbox", "hotcoco")
    assert (result.metrics, result.per_class, result.evaluator) == (
        wanted.metrics,
        wanted.per_class,
        "hotcoco",
    )
    assert result.image_f1 == {to[image]: f1 for image, f1 in wanted.image_f1.items()}


class Panic(BaseException):
    """As Rust's panics reach Python: not an Exception."""


@pytest.mark.parametrize("error", [Panic("index out of\nbounds"), TypeError("a string was expected")])
def test_where_hotcoco_fails_pycocotools_scores(monkeypatch, caplog, error):
    def fail(*_):
        raise error

    records = [{**BOX, "score": 0.5}]
    wanted = score(as_truth([BOX]), records, "bbox", "pycocotools")
    monkeypatch.setattr(evaluators, "_with_hotcoco", fail)
    result = score(as_truth([BOX]), records, "bbox", "hotcoco")
    assert result == wanted and result.evaluator == "pycocotools"
    assert f"does not take this: {type(error).__name__}: {' '.join(str(error).split())}" in caplog.text


def test_ctrl_c_while_hotcoco_scores_is_no_failure_of_hotcoco(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluators, "_with_hotcoco", interrupt)
    with pytest.raises(KeyboardInterrupt):
        score(as_truth([BOX]), [{**BOX, "score": 0.5}], "bbox", "hotcoco")


def test_detections_of_unknown_classes_are_left_out_and_proposals_are_of_any():
    unknown = [{**BOX, "category_id": 12, "score": 0.5}]
    for evaluator in ("pycocotools", "hotcoco"):
        assert score(as_truth([BOX]), unknown, "bbox", evaluator).metrics["AP"] == 0
        assert score(as_truth([BOX]), unknown, "proposals", evaluator).metrics["AR@100"] == 1


def test_a_process_forked_after_a_use_does_not_wait_for_threads_that_are_not_there():
    records = [{**BOX, "score": 0.5}]
    wanted = score(as_truth([BOX]), records, "bbox", "hotcoco")
    processes = multiprocessing.get_context("fork")
    results = processes.SimpleQueue()

    def in_child():
        results.put(score(as_truth([BOX]), records, "bbox", "hotcoco"))

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
def test_an_evaluator_that_is_not_there_is_said_before_the_work(monkeypatch, start, tmp_path):
    monkeypatch.setattr(evaluators, "_installed_version", lambda: ())
    cfg = config("hotcoco")
    cfg.OUTPUT_DIR = str(tmp_path)
    with pytest.raises(ConvbodyError, match="hotcoco is not installed"):
        start(cfg)
