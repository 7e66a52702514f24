"""Checkpoint files: written atomically, checked when read, the newest few kept."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import torch

from convbody.training.memory import is_out_of_memory
from convbody.training.schema import Weights
from registry import ConvbodyError

_NAME = re.compile(r"iter_(\d+)\.pth")


class CheckpointError(ConvbodyError):
    """A checkpoint that cannot be written, read or continued from."""


class MisfitError(CheckpointError):
    """A sound checkpoint of another model, optimiser or search than the one at hand."""


def write_checkpoint(payload: Mapping[str, Any], path: Path) -> None:
    """Write ``payload`` so that at every moment ``path`` holds either all of it or what was there before.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(".partial")  # one name for all, so that crashes do not pile up files
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch wraps a failed write in a RuntimeError
        with suppress(OSError):  # a file may be where the folder should be
            temporary.unlink(missing_ok=True)
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise CheckpointError(
            f"cannot write {path}: {_one_line(reason)}; make room or set OUTPUT_DIR elsewhere, then --resume"
        ) from error


def read_checkpoint(path: Path, kind: type[Weights] = Weights) -> dict[str, Any]:
    """The payload of a checkpoint that holds at least what ``kind`` says; on the CPU, unpickled weights-only.

    torch itself does not verify the checksums in its files, so they are verified here first.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, or not a checkpoint of this program.
        ConvbodyError: there is not enough memory to read it.
    """
    try:
        # Opened once: a run that goes on may remove the file meanwhile.
        with open(path, "rb") as file:
            _check_archive(file, path)
            payload = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"no such checkpoint: {path}") from error
    except CheckpointError:
        raise
    except Exception as error:  # unpickling damaged bytes fails in any way
        if is_out_of_memory(error):
            raise ConvbodyError(f"not enough memory to read {path}: {_one_line(error)}") from error
        raise CheckpointError(f"{path} is truncated or damaged: {_one_line(error)}") from error
    try:
        msgspec.convert(payload, kind)
    except Exception as error:  # not only ValidationError: a tensor is taken for a mapping, and fails as one
        raise CheckpointError(f"{path} is no checkpoint of this program: {_one_line(error)}") from error
    return payload


def peek(path: Path) -> dict[str, Any]:
    """What ``read_checkpoint`` gives, unverified and without reading its tensors; {} where it fails."""
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # unpickling damaged bytes fails in any way, and read_checkpoint says how
        return {}
    return payload if isinstance(payload, dict) else {}


@dataclass(frozen=True)
class Found:
    """A checkpoint that can be used, and newer files that cannot, each with the reason."""

    path: Path
    payload: dict[str, Any]
    passed_over: Sequence[tuple[Path, CheckpointError]]


class CheckpointFolder:
    """``iter_0000100.pth``, ... of one run, named by the iterations done, and ``best.pth`` beside them.

    After each save the newest ``keep`` stay (0 or less: all).
    """

    def __init__(self, folder: Path, keep: int = 0) -> None:
        self.folder = folder
        self.keep = keep

    def path(self, iteration: int) -> Path:
        """The file of ``iteration``, whether it exists or not."""
        return self.folder / f"iter_{iteration:07d}.pth"

    @property
    def best(self) -> Path:
        """The weights that scored best so far."""
        return self.folder / "best.pth"

    def files(self) -> list[Path]:
        """The checkpoints there are, oldest first."""
        return [path for _, path in sorted(self._numbered())]

    def save(self, payload: Mapping[str, Any], iteration: int) -> Path:
        """Write the checkpoint of ``iteration``, then drop older ones than the newest ``keep``."""
        path = self.path(iteration)
        write_checkpoint(payload, path)
        if self.keep > 0:
            upto = [old for number, old in sorted(self._numbered()) if number <= iteration]
            for old in upto[: -self.keep]:
                with suppress(OSError):
                    old.unlink()
        return path

    def newest(
        self,
        kind: type[Weights] = Weights,
        check: Callable[[dict[str, Any], Path], None] = lambda payload, path: None,
    ) -> Found | None:
        """The newest checkpoint that can be used, or None where there is no checkpoint at all.

        It holds what ``kind`` says, is of the iteration in its name, and ``check``, called with its payload
        and path, raises no CheckpointError.

        Raises:
            MisfitError: there are checkpoints, none can be used, and the newest that is sound was refused so.
            CheckpointError: there are checkpoints, and none can be used.
        """
        failures: list[tuple[Path, CheckpointError]] = []
        for number, path in sorted(self._numbered(), reverse=True):
            try:
                payload = read_checkpoint(path, kind)
                if payload.get("iteration") != number:
                    raise CheckpointError(f"{path} is of iteration {payload.get('iteration')}")
                check(payload, path)
            except CheckpointError as error:
                failures.append((path, error))
                continue
            return Found(path, payload, failures)
        for _, failure in failures:
            if isinstance(failure, MisfitError):
                raise failure
        if failures:
            raise CheckpointError(
                f"{failures[0][1]}; no checkpoint in {self.folder} is readable; remove it and start over "
                "without --resume"
            )
        return None

    def _numbered(self) -> list[tuple[int, Path]]:
        matches = ((_NAME.fullmatch(path.name), path) for path in self.folder.glob("iter_*.pth"))
        return [(int(match[1]), path) for match, path in matches if match]


def _check_archive(file: BinaryIO, path: Path) -> None:
    """Raise CheckpointError for a file that torch.save has not written so."""
    with zipfile.ZipFile(file) as archive:
        # torch compresses nothing; a compressed file may have more than memory holds.
        if sum(entry.file_size for entry in archive.infolist()) > os.fstat(file.fileno()).st_size:
            raise CheckpointError(f"{path} is no checkpoint of this program: it is compressed")
        if (damaged := archive.testzip()) is not None:
            raise CheckpointError(f"{path} is damaged: wrong checksum of {damaged}")
    file.seek(0)


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _one_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
