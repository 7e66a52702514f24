"""Results that a run must reproduce."""

from __future__ import annotations

import logging

import pytest
from oracle_detector import OracleDetector, open_shapes, shapes_config

from convbody.detection.evaluation import EvaluationResult, evaluate, evaluate_checkpoint
from convbody.detection.evaluation import checkpoint as checkpoint_module
from convbody.detection.evaluation.expected import (
    UnexpectedResultError,
    check_expectations,
    read_expectations,
)
from convbody.detection.evaluation.scoring import metric_names
from convbody.detection.train import train_detector
from convbody.detection.trained import Trained
from convbody.training.trained import TrainedWeights
from registry import ConvbodyError


def expecting(shapes, *entries, opts=()):
    return shapes_config(shapes, "TEST.EXPECTED_RESULTS", list(entries), *opts)


@pytest.fixture
def results(shapes):
    """Results of a detector that misses two of seven images."""
    cfg = shapes_config(shapes)
    dataset = open_shapes(shapes, cfg)
    return {"shapes": evaluate(OracleDetector(dataset, blind_to=(2, 5)), dataset, cfg, "shapes")}


def test_a_result_in_its_range_passes_and_one_outside_is_logged_and_raised(shapes, results, caplog):
    ap, ap50 = (results["shapes"].metrics[f"bbox/{name}"] for name in ("AP", "AP50"))
    check_expectations([], results)
    # Four standard deviations by default.
    check_expectations(
        read_expectations(expecting(shapes, ["shapes", "box", "AP", ap + 0.039, 0.01])), results
    )
    cfg = expecting(
        shapes,
        ["shapes", "box", "AP", ap + 0.041, 0.01],
        ["shapes", "bbox", "AP50", ap50, 0],
        ["shapes", "box", "AP75", 0, 0.001],
    )
    with pytest.raises(UnexpectedResultError, match="1 more") as caught:
        check_expectations(read_expectations(cfg), results)
    assert "\n" not in str(caught.value) and "TEST.EXPECTED_RESULTS" in str(caught.value)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == 2
    assert f"shapes bbox/AP: wanted {ap + 0.041:.4f}, got {ap:.4f}, range {ap + 0.001:.4f}" in lines[0]


def test_the_tolerance_counts_standard_deviations(shapes, results):
    ap = results["shapes"].metrics["bbox/AP"]
    for sigmas, fits in ((1, False), (3, True)):
        opts = ["TEST.EXPECTED_RESULTS_SIGMA_TOL", sigmas]
        (each,) = read_expectations(expecting(shapes, ["shapes", "box", "AP", ap - 0.02, 0.01], opts=opts))
        assert each.holds(ap) == fits


def test_what_was_not_measured_is_not_as_expected(shapes, results):
    found = dict(results["shapes"].metrics)
    missing = next(name for name in metric_names("bbox") if f"bbox/{name}" not in found)
    cfg = expecting(shapes, ["shapes", "box", missing, 0.0, 10.0])
    with pytest.raises(UnexpectedResultError, match="no such result"):
        check_expectations(read_expectations(cfg), results)


def test_every_metric_of_a_result_has_a_known_name(results):
    known = {f"bbox/{name}" for name in metric_names("bbox")}
    assert set(results["shapes"].metrics) <= known


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("box", "give \\[data set, task"),
        (["box", "AP", 0.3, 0.1], "give \\[data set, task"),
        (["coco", "box", "AP", 0.3, 0.1], "DATASETS.TEST, which has shapes"),
        (["shapes", "segm", "AP", 0.3, 0.1], "evaluated on bbox, not on 'segm'"),
        (["shapes", "boxes", "AP", 0.3, 0.1], "not on 'boxes'"),
        (["shapes", "box", "mAP", 0.3, 0.1], "no metric 'mAP'; nearest: AP"),
        (["shapes", "box", "AP", "high", 0.1], "are numbers"),
        (["shapes", "box", "AP", 0.3, -0.1], "0 or more"),
    ],
)
def test_an_entry_that_cannot_be_checked_stops_the_run_before_it_starts(shapes, tmp_path, entry, words):
    cfg = expecting(shapes, entry, opts=["OUTPUT_DIR", str(tmp_path / "run")])
    for start in (train_detector, evaluate_checkpoint):
        with pytest.raises(ConvbodyError, match=words) as caught:
            start(cfg)
        assert "TEST.EXPECTED_RESULTS" in str(caught.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_failed_evaluation_has_written_its_results(shapes, tmp_path, monkeypatch):
    cfg = expecting(shapes, ["shapes", "box", "AP", 0.5, 0.01], opts=["OUTPUT_DIR", str(tmp_path)])
    oracle = Trained(OracleDetector(open_shapes(shapes, cfg)), TrainedWeights("w.pth", "convbody", {}))
    monkeypatch.setattr(checkpoint_module, "load_trained", lambda cfg, weights: oracle)
    with pytest.raises(UnexpectedResultError, match=r"wanted 0.5000, got 1.0000, range 0.4600 to 0.5400"):
        evaluate_checkpoint(cfg)
    saved = EvaluationResult.load(tmp_path / "evaluation" / "shapes")
    assert saved.metrics["bbox/AP"] == pytest.approx(1.0)
