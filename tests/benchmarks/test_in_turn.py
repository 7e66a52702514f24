"""The benchmarks of start-up, allocator, evaluation and data loading, cut down to a moment."""

from __future__ import annotations

import sys

import allocator
import annotations
import data_loading
import evaluation
import measure
import pytest
import startup
import torch


def test_programs_take_their_turn_and_the_first_round_does_not_count():
    program = "import json, sys; print('noise'); print(json.dumps({'seconds': float(sys.argv[1])}))"
    rounds = measure.in_turn({"a": [program, "1"], "b": [program, "2"]}, rounds=2)
    assert rounds == [{"a": {"seconds": 1.0}, "b": {"seconds": 2.0}}] * 2
    assert measure.in_turn({"a": [program, "1"]}, rounds=1) == [{"a": {"seconds": 1.0}}]
    assert measure.quartiles([1, 2, 3, 4, 5], digits=1) == "3.0 (2.0 to 4.0)"
    assert measure.quartiles([2]) == "2.00 (2.00 to 2.00)"
    assert f"torch {torch.__version__}".partition("+")[0] in measure.environment("torch")


def test_a_list_of_names_is_timed_without_torch():
    program = startup.programs()[startup.LIST][0]
    loaded = "\nprint(json.dumps({'torch': 'torch' in sys.modules}))"
    assert 0 < measure.run_python(program)["seconds"] < 30
    assert measure.run_python(program + loaded) == {"torch": False}


@pytest.mark.slow
def test_kept_memory_saves_page_faults(monkeypatch, capsys):
    arguments = ["--rounds", "1", "--size", "512", "512", "--forwards", "1"]
    monkeypatch.setattr(sys, "argv", ["allocator.py", *arguments, "--networks", "plain convolutions"])
    allocator.main()
    faults = [float(line.split()[-6]) for line in capsys.readouterr().out.splitlines() if "faults" in line]
    assert faults[1] < faults[0] / 2


@pytest.mark.parametrize("task", ["bbox", "segm", "keypoints"])
def test_evaluators_agree_on_what_is_drawn_and_detections_are_mostly_right(capsys, task):
    assert evaluation.compare(images=2, task=task, rounds=2) == []
    out = capsys.readouterr().out
    assert "equal in every digit" in out
    assert 0.2 < float(out.split("AP ")[1].split(";")[0]) < 1


def test_a_statistic_that_differs_is_named():
    import dataclasses

    truth, records = evaluation.draw(2, "bbox")
    scores, wall, cpu = evaluation.timed("hotcoco", truth, records, "bbox")
    assert wall > 0 and cpu > 0
    metrics = {**scores.metrics, "AP": scores.metrics["AP"] + 1e-12}
    assert evaluation.differences(scores, dataclasses.replace(scores, metrics=metrics)) == ["metrics"]


def test_both_pipelines_give_batches_of_the_same_images(tmp_path):
    annotations = data_loading.draw_data_set(tmp_path, images=1, height=48, width=64)
    ours = next(data_loading.our_batches(annotations))
    plain = next(data_loading.plain_batches(annotations))
    for image, other in zip(ours, plain, strict=True):
        assert image.shape == other.shape == (3, 800, 1067)
        # One picture, mirrored or not; Pillow and torchvision round what they interpolate differently.
        assert min((image - other).abs().max(), (image.flip(-1) - other).abs().max()) < 0.02


def test_a_drawn_file_is_read_and_workers_share_it(tmp_path):
    annotations.draw(tmp_path / "drawn.json", images=6, objects=3, points=5)
    found = annotations.in_process(tmp_path / "drawn.json", masks=True, workers=2)
    assert found["workers"] > found["alone"] > 0 and found["peak"] >= found["before"]
