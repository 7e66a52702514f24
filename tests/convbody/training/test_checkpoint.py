import errno
import os
import pickle
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convbody.training.checkpoint import (
    CheckpointError,
    CheckpointFolder,
    MisfitError,
    read_checkpoint,
    write_checkpoint,
)
from convbody.training.random_state import random_state


def payload(seed):
    return {
        "model": {"w": torch.randn(40, generator=torch.Generator().manual_seed(seed))},
        "iteration": seed,
        "random": [random_state()],
        "config": "SEED: 0",
    }


def is_equal(left, right):
    return left["iteration"] == right["iteration"] and torch.equal(left["model"]["w"], right["model"]["w"])


@pytest.fixture(scope="module")
def file_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("bytes") / "iter_0000001.pth"
    write_checkpoint(payload(1), path)
    return path.read_bytes()


def test_round_trip_leaves_one_file(tmp_path):
    path = tmp_path / "new" / "iter_0000001.pth"
    write_checkpoint(payload(1), path)
    assert is_equal(read_checkpoint(path), payload(1))
    assert os.listdir(path.parent) == [path.name]


@given(cut=st.floats(0, 1, exclude_max=True))
def test_any_truncation_is_recognised(file_bytes, cut):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "iter_0000001.pth")
        path.write_bytes(file_bytes[: int(cut * len(file_bytes))])
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            read_checkpoint(path)


@settings(max_examples=300)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_recognised_or_harmless(file_bytes, place, bit):
    damaged = bytearray(file_bytes)
    damaged[int(place * len(damaged))] ^= 1 << bit
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "iter_0000001.pth")
        path.write_bytes(damaged)
        try:
            read = read_checkpoint(path)
        except CheckpointError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert is_equal(read, payload(1))


def test_a_flipped_bit_in_the_weights_is_recognised(file_bytes, tmp_path):
    """torch alone would load these without a word."""
    weights = payload(1)["model"]["w"].numpy().tobytes()
    place = file_bytes.index(weights)
    damaged = bytearray(file_bytes)
    damaged[place + 10] ^= 1
    path = tmp_path / "iter_0000001.pth"
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="checksum"):
        read_checkpoint(path)


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file(moment, tmp_path, monkeypatch):
    class Crash(BaseException):
        pass

    def crash(*args):
        raise Crash

    folder = CheckpointFolder(tmp_path, keep=1)
    path = folder.save(payload(1), 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, moment, crash)
        with pytest.raises(Crash):
            write_checkpoint(payload(2), path)
        with pytest.raises(Crash):
            folder.save(payload(3), 3)
    assert folder.files() == [path]
    assert is_equal(read_checkpoint(path), payload(1))
    folder.save(payload(4), 4)
    assert [file.name for file in folder.files()] == ["iter_0000004.pth"]


def test_the_bytes_are_on_disk_before_the_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args)))
    write_checkpoint(payload(1), tmp_path / "iter_0000001.pth")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device") as error:
        write_checkpoint(payload(1), tmp_path / "iter_0000001.pth")
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


@given(
    keep=st.integers(-2, 4), iterations=st.lists(st.integers(1, 10**8), unique=True, min_size=1, max_size=7)
)
@settings(max_examples=25)
def test_the_newest_are_kept(keep, iterations):
    with tempfile.TemporaryDirectory() as name:
        folder = CheckpointFolder(Path(name), keep)
        Path(name, "best.pth").touch()
        for iteration in sorted(iterations):
            folder.save({"model": {}}, iteration)
        kept = sorted(iterations)[-keep:] if keep > 0 else sorted(iterations)
        assert folder.files() == [folder.path(iteration) for iteration in kept]
        assert folder.best.exists()


def test_what_is_saved_is_never_dropped(tmp_path):
    """A file of a later iteration, left by somebody else, does not count as a newer one."""
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.path(9).touch()
    for iteration in (1, 2):
        folder.save(payload(iteration), iteration)
    assert folder.files() == [folder.path(2), folder.path(9)]


def test_damaged_newest_ones_are_passed_over(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for iteration in (1, 2, 3):
        folder.save(payload(iteration), iteration)
    os.truncate(folder.path(2), 100)
    folder.path(3).unlink()
    folder.path(3).mkdir()
    found = folder.newest()
    assert (found.path, found.payload["iteration"]) == (folder.path(1), 1)
    assert [path for path, _ in found.passed_over] == [folder.path(3), folder.path(2)]
    assert len(folder.files()) == 3, "looking changes nothing"


def test_nothing_readable(tmp_path):
    folder = CheckpointFolder(tmp_path)
    assert folder.newest() is None
    folder.save(payload(1), 1)
    os.truncate(folder.path(1), 10)
    with pytest.raises(CheckpointError, match="no checkpoint in .* is readable"):
        folder.newest()


def test_other_files_in_the_folder_are_no_checkpoints(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for name in ("iter_last.pth", "iter_0000001.pth.damaged", "best.pth", "iter_-000001.pth"):
        (tmp_path / name).touch()
    assert folder.files() == []


def test_a_checkpoint_that_does_not_fit_is_passed_over_only_for_one_that_does(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for iteration in (1, 2):
        folder.save(payload(iteration), iteration)

    def refuse(*iterations):
        def check(payload, path):
            if payload["iteration"] in iterations:
                raise MisfitError(f"{path} is of another model")

        return check

    assert folder.newest(check=refuse(2)).path == folder.path(1)
    os.truncate(folder.path(2), 10)
    with pytest.raises(MisfitError, match="iter_0000001.pth is of another model"):
        folder.newest(check=refuse(1))


def test_a_file_that_would_fill_the_memory_is_not_read(tmp_path):
    path = tmp_path / "iter_0000001.pth"
    torch.save({**payload(1), "more": torch.zeros(2**20)}, tmp_path / "plain")
    with (
        zipfile.ZipFile(tmp_path / "plain") as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(path)


def test_code_in_a_file_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harm"),))

    path = tmp_path / "iter_0000001.pth"
    torch.save({"model": Harm()}, path)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert not (tmp_path / "harm").exists()


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="list.pth is no checkpoint of this program: Expected `object`"):
        read_checkpoint(tmp_path / "list.pth")


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write .*checkpoints"):
        write_checkpoint(payload(1), tmp_path / "checkpoints" / "iter_0000001.pth")
