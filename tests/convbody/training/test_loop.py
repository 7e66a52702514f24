import json
import logging
import os
import signal

import pytest
import torch
import training_toy as toy
from torch import nn

from convbody.training import CheckpointError, NonFiniteLossError, read_checkpoint
from registry import ConfigError, ConvbodyError, load_cfg


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_learns_and_leaves_its_files(tmp_path):
    cfg = toy.config(SOLVER__MAX_ITER=60, SOLVER__TEST_PERIOD=20, SOLVER__TENSORBOARD=True)
    result = toy.run(tmp_path, cfg)
    assert (result.iteration, result.interrupted) == (60, False)
    assert list(result.evaluations) == [20, 40, 60]
    training = [row for row in rows(tmp_path) if "loss" in row]
    assert training[-1]["loss"] < 0.5 * training[0]["loss"]
    assert training[0]["losses"].keys() == {"loss_square", "loss_absolute"}
    assert training[0]["loss"] == pytest.approx(sum(training[0]["losses"].values()))
    assert training[0].keys() >= {"iteration", "lr", "time", "data_time", "images/s", "memory"}
    assert training[-1]["images/s"] == pytest.approx(4 / training[-1]["time"])
    assert [row["eval"] for row in rows(tmp_path) if "eval" in row] == list(result.evaluations.values())
    assert load_cfg(tmp_path / "config.yaml").dump() == cfg.dump()
    log = (tmp_path / "log.txt").read_text()
    assert "iter 60/60  eta 0:00:00  loss" in log and log.count("the first iteration took") == 1
    assert list((tmp_path / "tensorboard").glob("events.*"))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.pth", "iter_0000050.pth", "iter_0000055.pth", "iter_0000060.pth"]


def test_best_weights_are_the_best_ones(tmp_path, same_weights):
    scores = {10: 1.0, 20: 3.0, 30: float("nan"), 40: 2.0}
    seen = {}

    def evaluate(model, iteration):
        assert not model.training
        seen[iteration] = {key: value.clone() for key, value in model.state_dict().items()}
        return {"other": 0.0, "AP": scores[iteration]}

    cfg = toy.config(SOLVER__MAX_ITER=40, SOLVER__TEST_PERIOD=10, SOLVER__BEST_METRIC="AP")
    toy.run(tmp_path, cfg, evaluate=evaluate)
    best = read_checkpoint(tmp_path / "checkpoints" / "best.pth")
    assert best["iteration"] == 20
    assert best["metrics"] == {"other": 0.0, "AP": 3.0}
    assert same_weights(best["model"], seen[20])


def test_unknown_best_metric(tmp_path):
    with pytest.raises(ConfigError, match="no such metric, but score .SOLVER.BEST_METRIC = 'AP'"):
        toy.run(tmp_path, toy.config(SOLVER__BEST_METRIC="AP"))


def test_the_average_is_what_is_evaluated_and_kept(tmp_path, same_weights):
    evaluated = []
    model = toy.network()
    result = toy.run(
        tmp_path, toy.config(SOLVER__EMA__ENABLED=True), model,
        evaluate=lambda module, iteration: evaluated.append(module) or {"AP": 1.0},
    )  # fmt: skip
    assert evaluated == [result.model] and result.model is not model
    assert not same_weights(result.model.state_dict(), model.state_dict())
    best = read_checkpoint(tmp_path / "checkpoints" / "best.pth")
    assert same_weights(best["model"], result.model.state_dict())


def test_evaluation_leaves_no_trace_in_the_training(tmp_path, same_weights):
    often, never = toy.network(), toy.network()
    toy.run(tmp_path / "often", toy.config(SOLVER__TEST_PERIOD=2), often)
    toy.run(tmp_path / "never", toy.config(), never, evaluate=None)
    assert same_weights(often.state_dict(), never.state_dict())
    assert often.training


def test_accumulation_equals_a_big_batch(tmp_path):
    weights = []
    for name, changes in {"big": {}, "small": {"SOLVER__IMS_PER_BATCH": 1, "SOLVER__ACCUMULATE": 4}}.items():
        model = toy.network(norm=False, dropout=0.0)
        toy.run(tmp_path / name, toy.config(**changes), model)
        weights.append(dict(model.state_dict()))
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)
    big, small = (rows(tmp_path / name)[0] for name in ("big", "small"))
    assert small["loss"] == pytest.approx(big["loss"], rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind, value", [("norm", 1e-3), ("value", 1e-4)])
def test_clipping_bounds_the_step(kind, value, dtype, tmp_path):
    """One step of SGD without momentum, decay and warm-up moves weights by learning rate times gradient."""
    model = toy.network()
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    cfg = toy.config(
        DTYPE=dtype,
        SOLVER__MAX_ITER=1, SOLVER__BASE_LR=1.0, SOLVER__WARMUP_ITERS=0, SOLVER__BIAS_LR_FACTOR=1.0,
        SOLVER__WEIGHT_DECAY=0.0, SOLVER__CLIP_GRADIENTS__ENABLED=True,
        SOLVER__CLIP_GRADIENTS__CLIP_TYPE=kind, SOLVER__CLIP_GRADIENTS__CLIP_VALUE=value,
    )  # fmt: skip

    def losses(model, batch):
        # Small enough for float16 gradients at the first loss scale, which else would skip the only step.
        return {name: 0.05 * term for name, term in toy.losses(model, batch).items()}

    toy.run(tmp_path, cfg, model, losses=losses)
    moved = nn.utils.parameters_to_vector(model.parameters()).detach() - before
    size = moved.norm() if kind == "norm" else moved.abs().max()
    assert size == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision(dtype, tmp_path, caplog, same_weights):
    seen = []

    def losses(model, batch):
        seen.append(model(batch[0]).dtype)
        return toy.losses(model, batch)

    cfg = toy.config(DTYPE=dtype, AMP_VERBOSE=True, SOLVER__CLIP_GRADIENTS__ENABLED=True)
    whole, resumed = toy.network(), toy.network()
    with caplog.at_level(logging.INFO):
        toy.run(tmp_path / "whole", cfg, whole, losses=losses)
    assert set(seen) == {getattr(torch, dtype)}
    assert all(parameter.dtype is torch.float32 for parameter in whole.parameters())
    stopped = toy.config(DTYPE=dtype, SOLVER__MAX_ITER=10, SOLVER__CLIP_GRADIENTS__ENABLED=True)
    toy.run(tmp_path / "parts", stopped, losses=losses)
    toy.run(tmp_path / "parts", cfg, resumed, losses=losses, resume=True)
    assert same_weights(resumed.state_dict(), whole.state_dict())
    scaler = read_checkpoint(tmp_path / "whole" / "checkpoints" / "iter_0000020.pth")["scaler"]
    assert bool(scaler) == (dtype == "float16")


def spoil(iteration, value):
    """The stream of batches with one image of that iteration (from 0) made of ``value``."""

    def batches(start):
        for position, (images, targets, names) in enumerate(toy.stream(4, start), start):
            if position == iteration:
                images[0] = value
            yield images, targets, names

    return batches


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_after_saving(value, tmp_path, same_weights):
    with pytest.raises(NonFiniteLossError) as error:
        toy.run(tmp_path, toy.config(), batches=spoil(12, value))
    message = str(error.value)
    names = ", ".join(f"image {number}" for number in range(48, 52))
    assert message.startswith(f"loss_square is nan (batch: {names}) in iteration 13")
    assert "iter_0000012.pth" in message and "\n" not in message
    # What the failing forward pass spoilt is not in the file: going on with good images is an unspoilt run.
    resumed, whole = toy.network(), toy.network()
    toy.run(tmp_path, toy.config(), resumed, resume=True)
    toy.run(tmp_path / "whole", toy.config(), whole)
    assert same_weights(resumed.state_dict(), whole.state_dict())


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    def losses(model, batch):
        # The root's gradient at 0 is infinite, times 0 is NaN: the loss itself stays finite.
        return {"loss_root": (model.head.weight.sum() * 0.0).sqrt()}

    with pytest.raises(CheckpointError, match=r"not saved: head.weight is not finite after iteration 1"):
        toy.run(tmp_path, toy.config(SOLVER__CHECKPOINT_PERIOD=1), losses=losses)
    assert not list(tmp_path.glob("checkpoints/iter_*"))


def test_the_run_with_lost_weights_still_names_the_loss(tmp_path):
    def losses(model, batch):
        root = (model.head.weight.sum() * 0.0).sqrt()
        return {"loss_root": root}

    with pytest.raises(
        NonFiniteLossError, match="loss_root is nan .*iteration 2; .*; not saved: head.weight"
    ):
        toy.run(tmp_path, toy.config(SOLVER__CHECKPOINT_PERIOD=0), losses=losses)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_the_run(number, tmp_path, same_weights, caplog):
    def batches(start):
        for position, batch in enumerate(toy.stream(4, start), start):
            if position == 7:
                os.kill(os.getpid(), number)
            yield batch

    previous = signal.getsignal(number)
    with caplog.at_level(logging.INFO):
        result = toy.run(tmp_path, toy.config(), batches=batches)
    assert (result.iteration, result.interrupted, result.metrics) == (8, True, {})
    assert "after iteration 8" in caplog.records[-1].message
    assert signal.getsignal(number) is previous
    resumed, whole = toy.network(), toy.network()
    assert toy.run(tmp_path, toy.config(), resumed, resume=True).iteration == 20
    toy.run(tmp_path / "whole", toy.config(), whole)
    assert same_weights(resumed.state_dict(), whole.state_dict())


def test_an_earlier_run_is_not_written_over(tmp_path):
    toy.run(tmp_path, toy.config())
    with pytest.raises(CheckpointError, match=r"iter_0000020.pth is of an earlier run; go on with --resume"):
        toy.run(tmp_path, toy.config())


def test_resume_with_nothing_there_begins(tmp_path):
    assert toy.run(tmp_path, toy.config(), resume=True).iteration == 20


def test_layer_decay_reaches_the_optimizer(tmp_path):
    """With a decay of 0 the stage stands still, bias and all, and the rest learns."""
    model, fresh = toy.network(), toy.network()
    cfg = toy.config(SOLVER__LAYER_DECAY=0.0)
    toy.run(tmp_path, cfg, model, stages=[("stem", [model.conv, model.norm])])
    assert torch.equal(model.conv.weight, fresh.conv.weight)
    assert not torch.equal(model.head.weight, fresh.head.weight)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"DTYPE": "half"}, "DTYPE = 'half'"),
        ({"SOLVER__ACCUMULATE": 0}, "SOLVER.ACCUMULATE = 0"),
        (
            {"SOLVER__CLIP_GRADIENTS__ENABLED": True, "SOLVER__CLIP_GRADIENTS__CLIP_TYPE": "l2"},
            "CLIP_TYPE = 'l2'",
        ),
    ],
)
def test_settings_that_cannot_be_used(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        toy.run(tmp_path, toy.config(**changes))


def test_a_stream_that_ends(tmp_path):
    with pytest.raises(ConvbodyError, match="stream of batches ended"):
        toy.run(tmp_path, toy.config(), batches=lambda start: iter([next(toy.stream(4, 0))]))


def test_an_output_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConvbodyError, match="OUTPUT_DIR .*file cannot be written"):
        toy.run(tmp_path / "file", toy.config())
