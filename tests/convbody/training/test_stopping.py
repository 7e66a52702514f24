"""Signals to stop, sent to a program that trains: real ones to real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import training_toy as toy

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import sys, time
from pathlib import Path
import convbody.starting
from convbody import cli

def main():
    import training_toy as toy
    folder, moment = Path(sys.argv[1]), sys.argv[2]
    def reached():
        print("reached", flush=True)
        time.sleep(60)
    def evaluate(model, iteration):
        if moment == "evaluating":
            reached()
        return {"score": 0.0}
    def batches(start):
        if moment == "beginning":
            reached()
        for number, batch in enumerate(toy.stream(4, start), start):
            if moment == "training" and number == 7:
                print("reached", flush=True)
            if number >= 7:
                time.sleep(0.1)
            yield batch
    cfg = toy.config(SOLVER__MAX_ITER=10 if moment == "evaluating" else 1000, SOLVER__CHECKPOINT_PERIOD=0)
    return toy.run(folder, cfg, evaluate=evaluate, batches=batches).exit_status

cli.run(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["beginning", "training", "evaluating"])
def test_the_status_is_128_and_the_signal_and_the_state_is_saved(number, moment, tmp_path):
    path = os.pathsep.join([str(ROOT), str(Path(toy.__file__).parent)])
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), moment],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    with process:
        while "reached" not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert len(errors.splitlines()) == 1 and number.name in errors, errors
    saved = sorted(path.name for path in (tmp_path / "checkpoints").glob("iter_*"))
    if moment == "beginning":
        assert saved == []
    elif moment == "evaluating":
        assert saved == ["iter_0000010.pth"]
    else:
        assert len(saved) == 1 and "iter_0000007.pth" < saved[0] < "iter_0000100.pth"


def interrupt(*args):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)  # any thread may receive the signal; this one then handles it soon
    raise AssertionError("it goes on")


@pytest.fixture
def ctrl_c_raises():
    """As in a program of its own: a process of pytest-xdist has another handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_evaluation_that_was_interrupted_is_made_up_for(tmp_path, same_weights, ctrl_c_raises):
    cfg = toy.config(SOLVER__CHECKPOINT_PERIOD=0, SOLVER__TEST_PERIOD=10)
    with pytest.raises(KeyboardInterrupt):
        toy.run(tmp_path / "cut", cfg, evaluate=interrupt)
    resumed, whole = toy.network(), toy.network()
    result = toy.run(tmp_path / "cut", cfg, resumed, resume=True)
    assert result.evaluations == toy.run(tmp_path / "whole", cfg, whole).evaluations
    assert same_weights(resumed.state_dict(), whole.state_dict())


def test_a_signal_in_the_last_iteration_counts_too(tmp_path):
    def batches(start):
        for number, batch in enumerate(toy.stream(4, start), start):
            if number == 19:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    result = toy.run(tmp_path, toy.config(), batches=batches)
    assert (result.iteration, result.exit_status, result.evaluations) == (20, 143, {})
    assert list(toy.run(tmp_path, toy.config(), resume=True).evaluations) == [20]
