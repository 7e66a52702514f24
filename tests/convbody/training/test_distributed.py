"""Two real processes that talk by gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_toy as toy
from ranks import run_ranks

import convbody
from convbody.training import distributed
from registry import ConfigError, load_cfg


def run_two(folder, changes, **options):
    """Train the toy in two processes; (model, averaged model) of each."""
    run_ranks(2, toy.run_in_process, folder, changes, options)
    return [torch.load(folder / f"final_{rank}.pth") for rank in range(2)]


def test_ranks_end_equal(tmp_path, same_weights):
    """Weights, running statistics and the average, with batch norm seeing other images on each rank."""
    (model_0, ema_0), (model_1, ema_1) = run_two(tmp_path, {"SOLVER__EMA__ENABLED": True})
    assert same_weights(model_0, model_1)
    assert same_weights(ema_0, ema_1)
    assert not torch.equal(model_0["norm.running_mean"], torch.zeros(8))
    assert len((tmp_path / "log.txt").read_text().split("iter 20/20")) == 2, (
        "one log: the last line is there once"
    )
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "loss" in row] == [5, 10, 15, 20]


def test_statistics_are_equal_only_by_the_broadcast(tmp_path):
    run_ranks(2, toy.leave_statistics, tmp_path)
    before, after = zip(*(torch.load(tmp_path / f"statistics_{rank}.pth") for rank in range(2)), strict=True)
    assert not torch.equal(*before)
    assert torch.equal(*after)
    assert torch.equal(after[1], before[0])


def test_two_ranks_equal_one_process_with_the_whole_batch(tmp_path):
    plain = {"norm": False, "dropout": 0.0}
    together, _ = run_two(tmp_path / "two", {}, network=plain)[0]
    alone = toy.network(**plain)
    toy.run(tmp_path / "one", toy.config(), alone)
    torch.testing.assert_close(together, dict(alone.state_dict()), rtol=1e-5, atol=1e-6)


def test_accumulation_over_two_ranks(tmp_path):
    plain = {"norm": False, "dropout": 0.0}
    halves = {"SOLVER__IMS_PER_BATCH": 2, "SOLVER__ACCUMULATE": 2}
    together, _ = run_two(tmp_path / "two", halves, network=plain)[0]
    alone = toy.network(**plain)
    toy.run(tmp_path / "one", toy.config(), alone)
    torch.testing.assert_close(together, dict(alone.state_dict()), rtol=1e-5, atol=1e-6)


def test_two_ranks_resume_exactly_and_one_resumes_aloud(tmp_path, same_weights, caplog):
    run_two(tmp_path / "parts", {"SOLVER__MAX_ITER": 10})
    parts = run_two(tmp_path / "parts", {}, resume=True)
    whole = run_two(tmp_path / "whole", {})
    assert all(same_weights(parts[rank][0], whole[0][0]) for rank in range(2))
    toy.run(tmp_path / "whole", toy.config(SOLVER__MAX_ITER=22), resume=True)
    assert "written by 2 processes and goes on with 1" in caplog.text


def test_a_loss_that_is_not_finite_on_one_rank_stops_both(tmp_path):
    run_ranks(2, toy.meet_nonfinite_loss, tmp_path)
    first, second = ((tmp_path / f"error_{rank}.txt").read_text() for rank in range(2))
    assert first == second
    assert "loss_square is nan" in first and "image 50" in first and "in iteration 13" in first
    assert (tmp_path / "checkpoints" / "iter_0000012.pth").exists()


@pytest.mark.slow
def test_torchrun(tmp_path):
    """The launcher itself."""
    script = tmp_path / "main.py"
    script.write_text(
        "import pathlib, training_toy\n"
        "training_toy.distributed.init_from_env()\n"
        f"training_toy.run_in_process(pathlib.Path({str(tmp_path)!r}), {{}}, {{}})\n"
        "training_toy.distributed.shutdown()\n"
    )
    path = os.pathsep.join([str(Path(convbody.__file__).parents[1]), str(Path(toy.__file__).parent)])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launcher, str(script)], check=True, env=os.environ | {"PYTHONPATH": path}, timeout=240)
    first, second = (torch.load(tmp_path / f"final_{rank}.pth")[0] for rank in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_alone_everything_is_local():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.all_gather_object("x") == ["x"]
    assert distributed.any_over_ranks(True, False) == [True, False]


def test_devices():
    assert distributed.device_for(toy.config()).type == "cpu"
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert distributed.device_for(toy.config(MODEL__DEVICE="cuda")).type == expected
    with pytest.raises(ConfigError, match="MODEL.DEVICE = 'gpu'"):
        distributed.device_for(toy.config(MODEL__DEVICE="gpu"))


@pytest.mark.parametrize("name", ["mps", "meta", "xla", "gpu", ""])
def test_a_device_that_cannot_compute_is_refused(name):
    with pytest.raises(ConfigError, match=r"use cuda or cpu \(MODEL.DEVICE"):
        distributed.device_for(load_cfg(None, ["MODEL.DEVICE", name]))
