"""Whole searches on bars of light."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from ranks import run_ranks

from convbody.search import train as module
from convbody.search.train import search
from convbody.training import distributed
from convbody.training.checkpoint import CheckpointError, CheckpointFolder, read_checkpoint
from convbody.training.step import NonFiniteLossError
from registry import ConfigError, load_cfg

LONG = {
    "SEARCH.EPOCHS": 16,
    "SEARCH.THETA_LR": 0.2,
    "SEARCH.WEIGHT_SHARE": 0.4,
    "SEARCH.TEST_EPOCHS": 0,
    "SEARCH.CHECKPOINT_EPOCHS": 0,
}


def rows_of(cfg):
    return [json.loads(line) for line in (Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text().splitlines()]


def final(cfg):
    return read_checkpoint(CheckpointFolder(Path(cfg.OUTPUT_DIR) / "checkpoints", 0).files()[-1])


def assert_same(left, right):
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left.keys() - {"config"}:
            assert_same(left[key], right[key])
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


@pytest.mark.parametrize("forward", ["soft", "sampled"])
def test_a_search_leaves_a_row_for_each_epoch(search_cfg, forward):
    cfg = search_cfg({"SEARCH.FORWARD": forward})
    result = search(cfg)
    assert (result.step, result.exit_status, result.theta.shape) == (3 * 4 + 2 * 1, 0, (4, 4))
    rows = rows_of(cfg)
    epochs = [row for row in rows if "eval" not in row]
    assert [row["iteration"] for row in epochs] == [4, 9, 14]
    assert [row["eval"].keys() for row in rows if "eval" in row] == [{"top1", "top5"}] * 3
    # Weights alone first; then the choice moves, along gradients that are recorded too.
    assert epochs[0]["losses"].keys() == {"weights"} and epochs[1]["losses"].keys() == {"weights", "theta"}
    assert set(epochs[0]["theta"].values()) == {0.0} and len(set(epochs[2]["theta"].values())) > 8
    assert set(epochs[0]["theta_gradient"].values()) == {0.0}
    assert len(set(epochs[1]["theta_gradient"].values())) > 8
    assert [row["temperature"] for row in epochs] == pytest.approx([5, 5, 5 * 0.955997])
    assert epochs[0]["latency_us"]["expected"] == pytest.approx(20 + 0.25 * (175 * 3 + 185))


@pytest.mark.parametrize("forward", ["soft", "sampled"])
@pytest.mark.parametrize("killed_after", [2, 5, 9])
def test_a_resumed_search_ends_bit_for_bit_like_one_that_was_not_cut(
    search_cfg, tmp_path, monkeypatch, killed_after, forward
):
    whole = search_cfg({"SEARCH.FORWARD": forward})
    search(whole)
    cut = search_cfg({"SEARCH.FORWARD": forward, "OUTPUT_DIR": str(tmp_path / "cut")})
    original = module._step

    def step(run, streams, moment):
        loss = original(run, streams, moment)
        steps.append(moment)
        if len(steps) == killed_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    steps = []
    with monkeypatch.context() as patched:
        patched.setattr(module, "_step", step)
        assert search(cut).exit_status == 128 + signal.SIGTERM
    assert len(steps) == killed_after
    search(cut, resume=True)
    assert_same(final(whole), final(cut))
    assert [row | {"eval": None} for row in rows_of(whole)] == [row | {"eval": None} for row in rows_of(cut)]


@pytest.mark.slow
def test_pressure_on_latency_gives_quicker_networks_monotonically(search_cfg, tmp_path):
    latencies = []
    for beta in (0.0, 1.0, 8.0):
        cfg = search_cfg(LONG | {"SEARCH.BETA": beta, "OUTPUT_DIR": str(tmp_path / f"beta{beta}")})
        search(cfg)
        latencies.append(rows_of(cfg)[-2]["latency_us"]["expected"])
    assert latencies[0] > latencies[1] > latencies[2]
    assert latencies[2] < 0.8 * latencies[0]


@pytest.mark.slow
@pytest.mark.parametrize("target", [80.0, 250.0])
def test_a_target_latency_is_approached(search_cfg, target):
    cfg = search_cfg(
        LONG
        | {
            "SEARCH.TARGET_LATENCY": target,
            "SEARCH.BETA_RATE": 0.1,
            "SEARCH.EPOCHS": 30,
            "SEARCH.WEIGHT_SHARE": 0.5,
        }
    )
    search(cfg)
    assert rows_of(cfg)[-2]["latency_us"]["expected"] == pytest.approx(target, rel=0.2)


def test_bfloat16(search_cfg):
    assert search(search_cfg({"DTYPE": "bfloat16", "SEARCH.EPOCHS": 2})).step == 9


def test_tensorboard_has_the_choice_and_its_gradients(search_cfg):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = search_cfg({"SOLVER.TENSORBOARD": True, "SEARCH.EPOCHS": 2, "SEARCH.TEST_EPOCHS": 0})
    search(cfg)
    events = EventAccumulator(str(Path(cfg.OUTPUT_DIR) / "tensorboard"))
    events.Reload()
    assert {"theta/01/ir_k3_e1", "theta_gradient/03/skip", "temperature", "eval/top5"} <= set(
        events.Tags()["scalars"]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"DTYPE": "float16"}, "DTYPE"),
        ({"DATASETS.TRAIN": []}, "DATASETS.TRAIN"),
        ({"SEARCH.LATENCY.PRECISION": "bfloat16"}, "SEARCH.LATENCY.PRECISION"),
    ],
)
def test_what_cannot_be_searched_names_its_key(search_cfg, changes, message):
    with pytest.raises(ConfigError, match=message):
        search(search_cfg(changes))


def test_a_loss_that_is_not_finite_ends_the_search(search_cfg):
    with pytest.raises(NonFiniteLossError, match="SOLVER.BASE_LR"):
        search(search_cfg({"SOLVER.BASE_LR": 1e30}))


def test_an_earlier_search_is_not_overwritten_nor_another_resumed(search_cfg):
    search(search_cfg({"SEARCH.EPOCHS": 1}))
    with pytest.raises(CheckpointError, match="earlier run; go on with --resume"):
        search(search_cfg())
    other = search_cfg({"SEARCH.SPACE.CANDIDATES": ("ir_k3_e1", "skip")})
    with pytest.raises(CheckpointError, match="of another model"):
        search(other, resume=True)


def test_a_resumed_search_obeys_its_own_config_and_names_what_changed(search_cfg, caplog):
    search(search_cfg({"SEARCH.EPOCHS": 2, "SEARCH.THETA_LR": 0.01, "SOLVER.MOMENTUM": 0.9}))
    changed = search_cfg({"SEARCH.THETA_LR": 0.3, "SOLVER.MOMENTUM": 0.5, "SOLVER.BASE_LR": 0.007})
    search(changed, resume=True)
    (warning,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    for change in ("SEARCH.THETA_LR was 0.01, is 0.3", "SOLVER.MOMENTUM was 0.9, is 0.5", "SEARCH.EPOCHS"):
        assert change in warning
    (theta,) = final(changed)["theta_optimizer"]["param_groups"]
    assert theta["lr"] == 0.3
    assert {group["momentum"] for group in final(changed)["weight_optimizer"]["param_groups"]} == {0.5}


@pytest.mark.slow
@pytest.mark.parametrize("forward", ["soft", "sampled"])
def test_two_processes_agree_on_the_choice(search_cfg, forward, tmp_path):
    cfg = search_cfg({"SEARCH.FORWARD": forward})
    path = tmp_path / "run.yaml"
    path.write_text(cfg.dump())
    run_ranks(2, _search_and_agree, path)
    payload = final(cfg)
    assert payload["iteration"] == 14 and len(payload["random"]) == 2
    assert len(payload["theta_optimizer"]["state"]) == 1


def _search_and_agree(path):
    result = search(load_cfg(path))
    assert torch.equal(*distributed.all_gather_object(result.theta))
