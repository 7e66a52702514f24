"""A command in bounded time, with a log of bounded size, that leaves no process behind."""

from __future__ import annotations

import ctypes
import os
import resource
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HEAD_BYTES, TAIL_BYTES = 6 << 20, 6 << 20  # of a log that is too long
GRACE_SECONDS = 2.0  # to print where it hangs
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, a signal as a negative number, None when its time was up."""

    status: int | None
    seconds: float


class Log:
    """A file that keeps the beginning and the end of what is written to it."""

    def __init__(self, path: Path, head: int = HEAD_BYTES, tail: int = TAIL_BYTES) -> None:
        self._file = path.open("wb", buffering=0)
        self._room = head
        self._tail_bytes = tail
        self._tail: deque[bytes] = deque()
        self._kept = 0
        self._left_out = 0

    def write(self, data: bytes) -> None:
        """Appends to the file while it is short, then to the end that `close` writes."""
        now, later = data[: self._room], data[self._room :]
        self._file.write(now)
        self._room -= len(now)
        if later:
            self._tail.append(later)
            self._kept += len(later)
        while self._kept - len(self._tail[0] if self._tail else b"") > self._tail_bytes:
            dropped = len(self._tail.popleft())
            self._kept -= dropped
            self._left_out += dropped

    def close(self) -> None:
        """Writes the end."""
        if self._left_out:
            self._file.write(f"\n... {self._left_out} bytes left out ...\n".encode())
        for piece in self._tail:
            self._file.write(piece)
        self._file.close()


def adopt_orphans() -> None:
    """Makes this process the parent of all that its descendants leave behind, and forbids core files.

    A process whose parent ends then stays findable, whatever session or group it is in.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def run_bounded(
    command: Sequence[str],
    *,
    seconds: float,
    log: Path,
    env: Mapping[str, str],
    cwd: Path,
    meanwhile: Callable[[], None] = lambda: None,
) -> Ended:
    """Runs a command for at most `seconds`, its output in `log`; calls `meanwhile` every half second.

    When the time is up the command gets SIGABRT: a Python with PYTHONFAULTHANDLER then prints where it is. In
    the end all processes below this one are killed. `adopt_orphans` must have been called before.
    """
    started = time.monotonic()
    output = Log(log)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        output.write(f"{error}\n".encode())
        output.close()
        return Ended(127, time.monotonic() - started)
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    try:
        in_time = _follow(process, output, started + seconds, meanwhile)
        if not in_time:
            os.killpg(process.pid, signal.SIGABRT)
            _follow(process, output, time.monotonic() + GRACE_SECONDS, meanwhile)
    finally:
        kill_descendants()
        status = _wait(process)
        _drain(process, output)
        process.stdout.close()
        output.close()
    meanwhile()
    return Ended(status if in_time else None, time.monotonic() - started)


def _follow(
    process: subprocess.Popen[bytes], log: Log, deadline: float, meanwhile: Callable[[], None]
) -> bool:
    """Copies the output until the process ends (True) or the deadline passes (False)."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        looked = time.monotonic()
        while process.poll() is None:
            if time.monotonic() > deadline:
                return False
            if selector.get_map() and selector.select(timeout=0.1):
                data = process.stdout.read(1 << 16)
                if data == b"":
                    selector.unregister(process.stdout)  # closed by a process that runs on
                log.write(data or b"")
            elif not selector.get_map():
                time.sleep(0.1)
            if time.monotonic() - looked > 0.5:
                looked = time.monotonic()
                meanwhile()
    return True


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    """The exit status; None where not even SIGKILL ends the process."""
    try:
        return process.wait(timeout=GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _drain(process: subprocess.Popen[bytes], log: Log) -> None:
    """Copies what is still in the pipe, without waiting for more."""
    assert process.stdout is not None
    while data := process.stdout.read(1 << 16):
        log.write(data)


def kill_descendants(patience: float = 5.0) -> None:
    """Kills every process below this one and waits for them, but not longer than `patience` seconds.

    A process in an uninterruptible call of the driver may outlast that.
    """
    deadline = time.monotonic() + patience
    while (below := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    """The living processes below one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended meanwhile
        if state not in "ZX":
            children.setdefault(int(parent), []).append(int(entry.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found
