"""One run in a folder: real processes, that end in every way."""

import os
import signal
import socket
import time

import pytest
from ranks import PROCESSES

from convbody.training import lock
from convbody.training.lock import FolderInUseError, one_run_per_folder, only_run
from convbody.training.output import OutputError
from registry import load_cfg


def hold(folder, child):
    """For another process: has the folder, and a child as a data worker is one, and waits."""
    with only_run(folder):
        number = os.fork()
        if number:
            child.value = number
        time.sleep(60)


@pytest.fixture
def owner(tmp_path):
    """Another process that holds the folder ``run``."""
    child = PROCESSES.RawValue("i", 0)
    process = PROCESSES.Process(target=hold, args=(tmp_path / "run", child))
    process.start()
    while not child.value:
        assert process.is_alive()
        time.sleep(0.01)
    yield process
    process.kill()
    process.join()
    os.kill(child.value, signal.SIGKILL)


def test_a_second_run_is_told_which_is_the_first(owner, tmp_path):
    with pytest.raises(FolderInUseError) as error, only_run(tmp_path / "run"):
        pass
    message = str(error.value)
    assert (
        f"run is in use by process {owner.pid} on {socket.gethostname()} since {time.strftime('%Y-')}"
        in message
    )
    assert "\n" not in message and "OUTPUT_DIR" in message
    with only_run(tmp_path / "other"):
        pass


def test_a_killed_run_leaves_no_lock_behind_although_its_worker_lives(owner, tmp_path):
    owner.kill()
    owner.join()
    with only_run(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / "run" / ".lock").read_text()
    assert not list((tmp_path / "run").iterdir())


def test_a_run_that_fails_leaves_no_lock_behind(tmp_path):
    @one_run_per_folder
    def run(cfg, *, fails):
        if fails:
            raise ZeroDivisionError
        return cfg.OUTPUT_DIR

    cfg = load_cfg(None, ["OUTPUT_DIR", str(tmp_path / "run")])
    with pytest.raises(ZeroDivisionError):
        run(cfg, fails=True)
    assert run(cfg, fails=False) == str(tmp_path / "run")


def test_a_file_that_its_owner_removes_meanwhile_is_not_taken(tmp_path, monkeypatch):
    """Between opening and locking it; another run has then locked a new one."""
    real, calls = lock.fcntl.lockf, []

    def lockf(descriptor, operation):
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(descriptor)
        return real(descriptor, operation)

    monkeypatch.setattr(lock.fcntl, "lockf", lockf)
    with only_run(tmp_path):
        assert len(calls) == 2 and (tmp_path / ".lock").exists()


def test_without_locks_it_is_logged_and_goes_on(tmp_path, monkeypatch, caplog):
    def lockf(descriptor, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", lockf)
    with only_run(tmp_path):
        assert "cannot be locked (No locks available)" in caplog.text


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="OUTPUT_DIR .*file cannot be written"), only_run(tmp_path / "file"):
        pass
