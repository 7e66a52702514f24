"""Files that cannot be written while a run goes on: one line, and the state is saved where it can be."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import training_toy as toy
from ranks import run_ranks

from convbody.training import CheckpointError
from convbody.training.logging import setup_logging
from convbody.training.output import OutputError
from convbody.training.tensorboard import Board

ROOT = Path(__file__).resolve().parents[3]


def at(iteration, action):
    """The toy's batches; ``action`` is called before that iteration's (from 0)."""

    def batches(start):
        for number, batch in enumerate(toy.stream(4, start), start):
            if number == iteration:
                action()
            yield batch

    return batches


def fill(path):
    """What is written to ``path`` from now on finds a full disk."""
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/full")


def test_a_full_disk_at_a_row_of_metrics_saves_the_state(tmp_path, same_weights):
    cfg = toy.config(SOLVER__CHECKPOINT_PERIOD=0, SOLVER__LOG_PERIOD=7)
    with pytest.raises(OutputError) as error:
        toy.run(tmp_path / "cut", cfg, batches=at(5, lambda: fill(tmp_path / "cut" / "metrics.jsonl")))
    message = str(error.value)
    assert "metrics.jsonl: No space left on device" in message and "\n" not in message
    assert "--resume goes on from" in message and "iter_0000007.pth" in message
    (tmp_path / "cut" / "metrics.jsonl").unlink()
    resumed, whole = toy.network(), toy.network()
    toy.run(tmp_path / "cut", cfg, resumed, resume=True)
    toy.run(tmp_path / "whole", cfg, whole)
    assert same_weights(resumed.state_dict(), whole.state_dict())


def test_a_folder_that_vanishes_comes_back_with_the_state(tmp_path):
    folder = tmp_path / "run"
    cfg = toy.config(SOLVER__CHECKPOINT_PERIOD=0, SOLVER__LOG_PERIOD=7)
    with pytest.raises(OutputError, match=r"metrics.jsonl: No such file .*--resume .*iter_0000007.pth"):
        toy.run(folder, cfg, batches=at(5, lambda: shutil.rmtree(folder)))
    assert toy.run(folder, cfg, resume=True).iteration == 20


def test_without_the_log_file_the_run_goes_on(tmp_path, capfd):
    fill(tmp_path / "log.txt")
    assert toy.run(tmp_path, toy.config()).iteration == 20
    output = capfd.readouterr()
    assert output.out.count("log.txt: No space left on device") == 1 and output.err == ""


def test_both_processes_say_the_same_and_the_state_is_saved(tmp_path):
    run_ranks(2, toy.lose_the_disk, tmp_path)
    first, second = ((tmp_path / f"error_{rank}.txt").read_text() for rank in range(2))
    assert first == second
    assert "No space left on device" in first and "iter_0000005.pth" in first


def test_a_batch_that_one_of_two_processes_cannot_draw_stops_both_after_saving(tmp_path):
    run_ranks(2, toy.lose_a_batch, tmp_path)
    first, second = ((tmp_path / f"error_{rank}.txt").read_text() for rank in range(2))
    assert first == second
    assert first.startswith("image 50 is damaged; --resume goes on from") and "iter_0000012.pth" in first


def test_an_error_before_anything_was_trained_saves_nothing(tmp_path):
    def fail():
        raise OutputError("image 0 is damaged")

    with pytest.raises(OutputError, match=r"^image 0 is damaged$"):
        toy.run(tmp_path, toy.config(), batches=at(0, fail))
    assert not list(tmp_path.glob("checkpoints/*"))


def test_tensorboard_is_given_up_where_it_cannot_be_written_and_the_run_goes_on(tmp_path, caplog, capfd):
    (tmp_path / "tensorboard").write_text("in the way")
    assert toy.run(tmp_path, toy.config(SOLVER__TENSORBOARD=True)).iteration == 20
    assert caplog.text.count("no more curves for TensorBoard") == 1 and capfd.readouterr().err == ""


def test_an_event_file_on_a_full_disk_is_given_up_once(tmp_path, caplog, capfd):
    setup_logging()
    board = Board(tmp_path)
    with open("/dev/full", "wb", buffering=0) as full:
        board._file = full
        for step in range(3):
            board.add({"loss": 1.0}, step)
    assert caplog.text.count("No space left on device") == 1 and capfd.readouterr().err == ""


PROGRAM = """
import sys
from pathlib import Path
from convbody import cli

def main():
    import training_toy as toy
    cfg = toy.config(SOLVER__MAX_ITER=400, SOLVER__LOG_PERIOD=1, SOLVER__TENSORBOARD=True)
    return toy.run(Path(sys.argv[1]), cfg, toy.network(width=512)).exit_status

cli.run(main)
"""


@pytest.mark.slow
def test_where_nothing_can_be_written_at_all_each_file_is_one_line(tmp_path):
    """No file may be longer than 40,000 bytes: as on a full disk, a write ends in the middle."""
    path = os.pathsep.join([str(ROOT), str(Path(toy.__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": path},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000)),
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: cannot write"), done.stderr
    assert "iter_0000005.pth: " in done.stderr and "File too large" in done.stderr
    assert not list(tmp_path.glob("checkpoints/*"))


def test_a_checkpoint_that_cannot_be_written_names_it(tmp_path):
    def block():
        (tmp_path / "checkpoints").write_text("in the way")

    with pytest.raises(CheckpointError, match=r"cannot write .*iter_0000005.pth"):
        toy.run(tmp_path, toy.config(), batches=at(3, block))
