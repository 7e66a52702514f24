"""Checks that go on where one crashes, hangs or leaves the GPU unusable.

A part sorts its checks into lanes. Each lane is a process, which takes its checks one by one; lanes run side
by side where the part allows it. After an illegal access CUDA refuses everything in that process: the lane
starts anew behind the check that caused it, as it does after a crash and after a check that takes too long.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rows import Rows, seconds_given

#: Tells the process of a lane which it is: a JSON object of its name, first check, file and end.
VARIABLE = "GPU_CHECK_LANE"
#: How much longer a rehearsal may take: two cores that others use, too.
PATIENCE = 12
RESERVED_SECONDS = 3.0  # of the part's time, in which no check begins
_UNUSABLE = 3  # the exit status of a lane whose GPU refuses to go on


@dataclass(frozen=True)
class Check:
    """`run` adds rows. A check that takes longer than `seconds` is taken to hang."""

    name: str
    run: Callable[[Rows], None]
    seconds: float = 30.0


Lanes = Mapping[str, Sequence[Check]]


def run_lanes(args: argparse.Namespace, lanes: Lanes, *, side_by_side: int = 1) -> int:
    """Runs the checks of a part; its exit status."""
    if VARIABLE in os.environ:
        return _run_checks(lanes, **json.loads(os.environ[VARIABLE]))
    rows = Rows(args.json)
    patience = PATIENCE if args.rehearse else 1
    until = time.time() + seconds_given(1e9) - RESERVED_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        waiting = [
            _Lane(name, checks, Path(folder, f"{number}.json"), patience, until)
            for number, (name, checks) in enumerate(lanes.items())
        ]
        running: list[_Lane] = []
        while waiting or running:
            while waiting and len(running) < max(1, side_by_side):
                running.append(waiting.pop(0))
                running[-1].start()
            time.sleep(0.05)
            for lane in running:
                lane.look(rows)
            running = [lane for lane in running if not lane.ended]
    return rows.status()


@dataclass
class _Lane:
    """A lane as the process sees it that started it."""

    name: str
    checks: Sequence[Check]
    file: Path
    patience: float
    until: float
    ended: bool = False
    _first: int = 0
    _taken: int = 0
    _process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        self._taken = 0
        self.file.unlink(missing_ok=True)
        which = {"lane": self.name, "first": self._first, "file": str(self.file), "until": self.until}
        # In a group of its own, so that what a check has started can be ended with it.
        self._process = subprocess.Popen(
            [sys.executable, *sys.argv],
            env=os.environ | {VARIABLE: json.dumps(which)},
            start_new_session=True,
        )

    def look(self, rows: Rows) -> None:
        """Takes new rows over; what it does about a lane that has ended, or hangs."""
        status = self._process.poll()
        found = _read(self.file)
        if new := found.get("rows", [])[self._taken :]:
            self._taken += len(new)
            rows.take(new)
        number = found.get("number")
        check = None if number is None else self.checks[number]
        if status == 0:
            self.ended = True
        elif status is not None:
            self._go_on(rows, number, "" if status == _UNUSABLE else f"the process {_ended(status)}")
        elif check and time.time() - found["since"] > check.seconds * self.patience:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._go_on(rows, number, f"it took longer than {check.seconds * self.patience:.0f} s")

    def _go_on(self, rows: Rows, number: int | None, reason: str) -> None:
        """Begins behind the check that ended the process, if it was one."""
        if reason:
            name = self.name if number is None else self.checks[number].name
            rows.add(name, False, detail=reason if number is not None else f"{reason} before its first check")
        if number is None or number + 1 == len(self.checks):
            self.ended = True
            return
        self._first = number + 1
        self.start()


def _run_checks(lanes: Lanes, lane: str, first: int, file: str, until: float) -> int:
    """What the process of a lane does."""
    rows = Rows(Path(file))
    for number, check in enumerate(lanes[lane][first:], first):
        if time.time() > until:
            rows.miss(check.name, "not run: the time of this part is up")
            continue
        rows.note(number=number, since=time.time())
        try:
            check.run(rows)
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}"
            rows.add(check.name, False, detail=reason)
            if is_unusable(error):
                return _UNUSABLE
    return 0


def is_unusable(error: BaseException) -> bool:
    """Whether CUDA refuses everything in this process after such an error."""
    text = f"{type(error).__name__}: {error}"
    return "OutOfMemoryError" not in text and ("CUDA error" in text or "AcceleratorError" in text)


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found


def _ended(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
