"""One run in a folder at a time, by a lock that the kernel takes back from a process that has ended."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from convbody.training import distributed
from convbody.training.output import OutputError
from registry import Config, ConvbodyError

P = ParamSpec("P")
T = TypeVar("T")
_NAME = ".lock"
logger = logging.getLogger(__name__)


class FolderInUseError(ConvbodyError):
    """Another run writes into the folder; the message says which."""


def one_run_per_folder(run: Callable[Concatenate[Config, P], T]) -> Callable[Concatenate[Config, P], T]:
    """``run``, a function of a config, inside ``only_run`` of its OUTPUT_DIR."""

    @wraps(run)
    def alone(cfg: Config, *args: P.args, **kwargs: P.kwargs) -> T:
        with only_run(Path(cfg.OUTPUT_DIR)):
            return run(cfg, *args, **kwargs)

    return alone


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """While entered, no other run can enter with ``folder``; each process of a run calls this alike.

    Reading the folder is nobody's run. Where the file system has no locks, that is logged.

    Raises:
        FolderInUseError: another run has entered.
        OutputError: the folder cannot be written.
    """
    held: list[int] = []
    distributed.on_main(lambda: held.append(_lock(folder)))
    try:
        yield
    finally:
        for descriptor in held:
            with suppress(OSError):
                (folder / _NAME).unlink()
            os.close(descriptor)


def _lock(folder: Path) -> int:
    """The descriptor of the lock file, locked; closing it unlocks."""
    path = folder / _NAME
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"OUTPUT_DIR {folder} cannot be written: {error.strerror}") from error
        try:
            # Not flock, whose locks outlive a killed run in its data workers.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            owner = os.pread(descriptor, 1000, 0).decode(errors="replace") or "another run"
            os.close(descriptor)
            raise FolderInUseError(
                f"OUTPUT_DIR {folder} is in use by {owner}; wait for it, stop it, or set another OUTPUT_DIR"
            ) from None
        except OSError as error:
            logger.warning("%s cannot be locked (%s): let no other run write there", folder, error.strerror)
        if _is_the_file(descriptor, path):
            break
        os.close(descriptor)  # its owner has removed it meanwhile
    os.ftruncate(descriptor, 0)
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    with suppress(OSError):  # a full disk
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {now}".encode(), 0)
    return descriptor


def _is_the_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
