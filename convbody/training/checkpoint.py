"""Checkpoint files: written atomically, checked when read, the newest few kept."""

from __future__ import annotations

import logging
import os
import pickle
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from registry import ConvbodyError

logger = logging.getLogger(__name__)


class CheckpointError(ConvbodyError):
    """A checkpoint that cannot be written, read or continued from."""


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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The payload of a checkpoint, on the CPU, unpickled weights-only.

    torch itself does not verify the checksums in its files, so they are verified here first.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, or not a checkpoint of this program.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged: wrong checksum of {damaged}")
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"no such checkpoint: {path}") from error
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is truncated or damaged: {_one_line(error)}") from error
    if not isinstance(payload, dict) or "model" not in payload:
        raise CheckpointError(f"{path} is no checkpoint: it has no 'model'")
    return payload


class CheckpointFolder:
    """``iter_0000100.pth``, ... of one run, named by the iterations done, and ``best.pth`` beside them.

    After each save the newest ``keep`` stay (0: all).
    """

    def __init__(self, folder: Path, keep: int) -> None:
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
        return sorted(self.folder.glob("iter_*.pth"), key=lambda path: int(path.stem.removeprefix("iter_")))

    def save(self, payload: Mapping[str, Any], iteration: int) -> Path:
        """Write the checkpoint of ``iteration``, then drop the oldest beyond ``keep``."""
        path = self.path(iteration)
        write_checkpoint(payload, path)
        if self.keep:
            for old in self.files()[: -self.keep]:
                old.unlink()
        return path

    def newest_readable(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that reads well, or None where there is no checkpoint at all.

        A damaged one on the way is reported, and set aside as ``*.pth.damaged``.

        Raises:
            CheckpointError: there are checkpoints, and every one is damaged.
        """
        files = self.files()
        for position in reversed(range(len(files))):
            path = files[position]
            try:
                return path, read_checkpoint(path)
            except CheckpointError as error:
                next_best = f"using {files[position - 1]} instead" if position else "there is no older one"
                logger.warning("%s; %s", error, next_best)
                os.replace(path, path.with_name(f"{path.name}.damaged"))
        if files:
            raise CheckpointError(
                f"no checkpoint in {self.folder} is readable; remove it and start over without --resume"
            )
        return None


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _one_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
