"""A run that is killed and resumed ends where an uninterrupted one ends, to the last bit."""

import json
import os
import random
import time

import pytest
import torch
import training_toy as toy
from ranks import PROCESSES

CHANGES = {
    "SOLVER__MAX_ITER": 180,
    "SOLVER__CHECKPOINT_PERIOD": 3,
    "SOLVER__TEST_PERIOD": 20,
    "SOLVER__ACCUMULATE": 2,
    "SOLVER__EMA__ENABLED": True,
}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_killed_at_ten_random_moments(optimizer, tmp_path, same_weights):
    changes = CHANGES | {"SOLVER__OPTIMIZER": optimizer}
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def start(folder):
        drawn = PROCESSES.RawValue("i", 0)
        arguments = (folder, changes, {"resume": True}, drawn)
        process = PROCESSES.Process(target=toy.run_in_process, args=arguments, daemon=True)
        process.start()
        return process, drawn

    process, _ = start(whole)
    process.join(120)
    assert process.exitcode == 0

    moments, reached = random.Random(3), set()
    for _ in range(10):
        process, drawn = start(killed)
        # Batches, not seconds, or a machine that gets less busy ends the run too early.
        batches = moments.randint(1, 50)
        end = time.monotonic() + 60
        while drawn.value < batches:
            assert process.is_alive() and time.monotonic() < end, "no progress"
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.02))
        process.kill()
        process.join()
        assert process.exitcode == -9, "the run ended before it could be killed ten times"
        reached.add(max((killed / "checkpoints").glob("iter_*"), default=None))
    assert len(reached) > 3, "the kills must fall at different stages of the run"
    process, _ = start(killed)
    process.join(120)
    assert process.exitcode == 0

    for ours, theirs in zip(
        torch.load(killed / "final_0.pth"), torch.load(whole / "final_0.pth"), strict=True
    ):
        assert same_weights(ours, theirs)
    evaluations = [
        [row for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "eval" in row]
        for folder in (killed, whole)
    ]
    assert evaluations[0] == evaluations[1]
    assert len(evaluations[0]) == 9


@pytest.mark.parametrize("stop_at", [3, 5, 17])
def test_stopped_in_process(stop_at, tmp_path, same_weights):
    """The same without other processes: the run is left by an exception in the middle of an iteration."""
    cfg = toy.config(SOLVER__EMA__ENABLED=True)
    calls = 0

    def failing_losses(model, batch):
        nonlocal calls
        calls += 1
        terms = toy.losses(model, batch)
        if calls == stop_at:
            raise KeyboardInterrupt
        return terms

    whole = toy.network()
    averaged = toy.run(tmp_path / "whole", cfg, whole).model
    with pytest.raises(KeyboardInterrupt):
        toy.run(tmp_path / "stopped", cfg, losses=failing_losses)
    resumed = toy.network()
    result = toy.run(tmp_path / "stopped", cfg, resumed, resume=True)
    assert same_weights(resumed.state_dict(), whole.state_dict())
    assert same_weights(result.model.state_dict(), averaged.state_dict())


def test_random_state_is_part_of_it(tmp_path, same_weights):
    """Not passing by accident: with other random numbers the weights would differ."""
    whole, other = toy.network(), toy.network()
    toy.run(tmp_path / "whole", toy.config(), whole)
    toy.run(tmp_path / "other", toy.config(SEED=1), other)
    assert not same_weights(whole.state_dict(), other.state_dict())


def test_truncated_newest_checkpoint_is_replaced_by_the_one_before(tmp_path, same_weights, caplog):
    whole, resumed = toy.network(), toy.network()
    toy.run(tmp_path, toy.config(), whole)
    newest, before = (tmp_path / "checkpoints" / f"iter_00000{n}.pth" for n in (20, 15))
    os.truncate(newest, newest.stat().st_size // 2)
    toy.run(tmp_path, toy.config(), resumed, resume=True)
    warning = next(record.message for record in caplog.records if record.levelname == "WARNING")
    assert str(newest) in warning and str(before) in warning
    assert same_weights(resumed.state_dict(), whole.state_dict())


def test_evaluation_lost_between_saving_and_evaluating_is_made_up_for(tmp_path):
    cfg = toy.config(SOLVER__TEST_PERIOD=10)

    def dies(model, iteration):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.run(tmp_path / "killed", cfg, evaluate=dies)
    resumed = toy.run(tmp_path / "killed", cfg, resume=True)
    assert resumed.evaluations == toy.run(tmp_path / "whole", cfg).evaluations
    assert list(resumed.evaluations) == [10, 20]


def test_resuming_a_finished_run_repeats_nothing(tmp_path):
    finished = toy.run(tmp_path, toy.config())
    again = toy.run(tmp_path, toy.config(), resume=True, evaluate=None, losses=None)
    assert again.metrics == finished.metrics
    assert again.iteration == 20
