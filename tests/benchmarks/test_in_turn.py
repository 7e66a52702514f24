"""The benchmarks of start-up, allocator, evaluation and data loading, cut down to a moment."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def test_programs_take_their_turn_and_the_first_round_does_not_count():
    import measure

    program = "import json, sys; print('noise'); print(json.dumps({'seconds': float(sys.argv[1])}))"
    rounds = measure.in_turn({"a": [program, "1"], "b": [program, "2"]}, rounds=2)
    assert rounds == [{"a": {"seconds": 1.0}, "b": {"seconds": 2.0}}] * 2
    assert measure.quartiles([1, 2, 3, 4, 5], digits=1) == "3.0 (2.0 to 4.0)"
    assert f"torch {torch.__version__}".partition("+")[0] in measure.environment("torch")


def test_a_list_of_names_is_timed_without_torch():
    import measure
    import startup

    program = startup.programs()[startup.LIST][0]
    loaded = "\nprint(json.dumps({'torch': 'torch' in sys.modules}))"
    assert 0 < measure.run_python(program)["seconds"] < 30
    assert measure.run_python(program + loaded) == {"torch": False}


@pytest.mark.slow
def test_kept_memory_saves_page_faults(monkeypatch, capsys):
    import allocator

    arguments = ["--rounds", "2", "--size", "512", "512", "--forwards", "1"]
    monkeypatch.setattr(sys, "argv", ["allocator.py", *arguments, "--networks", "plain convolutions"])
    allocator.main()
    faults = [float(line.split()[-6]) for line in capsys.readouterr().out.splitlines() if "faults" in line]
    assert faults[1] < faults[0] / 2


@pytest.mark.parametrize("task", ["bbox", "segm", "keypoints"])
def test_evaluators_agree_on_what_is_drawn_and_detections_are_mostly_right(capsys, task):
    import evaluation

    assert evaluation.compare(images=2, task=task, rounds=2) == []
    out = capsys.readouterr().out
    assert "equal in every digit" in out
    assert 0.2 < float(out.split("AP ")[1].split(";")[0]) < 1


def test_a_statistic_that_differs_is_named():
    import dataclasses

    import evaluation

    truth, records = evaluation.draw(2, "bbox")
    scores, wall, cpu = evaluation.timed("hotcoco", truth, records, "bbox")
    assert wall > 0 and cpu > 0
    metrics = {**scores.metrics, "AP": scores.metrics["AP"] + 1e-12}
    assert evaluation.differences(scores, dataclasses.replace(scores, metrics=metrics)) == ["metrics"]


def test_both_pipelines_give_batches_of_the_same_images(tmp_path):
    import data_loading

    annotations = data_loading.draw_data_set(tmp_path, images=1, height=48, width=64)
    ours = next(data_loading.our_batches(annotations))
    plain = next(data_loading.plain_batches(annotations))
    for image, other in zip(ours, plain, strict=True):
        assert image.shape == other.shape == (3, 800, 1067)
        # One picture, mirrored or not; Pillow and torchvision round what they interpolate differently.
        assert min((image - other).abs().max(), (image.flip(-1) - other).abs().max()) < 0.02
