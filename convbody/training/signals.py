"""SIGTERM and Ctrl-C as a request to stop after the running iteration."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any


class StopRequest:
    """While entered, a SIGTERM or SIGINT only sets ``signal_name``; a later one acts as it always does.

    Later is ``PATIENCE`` seconds: under torchrun a Ctrl-C comes twice, from the terminal and from torchrun.
    Outside the main thread, where Python allows no signal handlers, it never sets anything.
    """

    PATIENCE = 2.0

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}
        self._since = 0.0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A forked data worker. Ctrl-C reaches it too, but the parent ends it, when all is saved.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.signal_name is not None:
            if time.monotonic() - self._since > self.PATIENCE:
                self.__exit__()
                os.kill(self._process, number)
            return
        self.signal_name, self._since = signal.Signals(number).name, time.monotonic()
        # os.write, because the interrupted code may be inside a buffered write to the same stream.
        os.write(2, f"{self.signal_name}: finishing this iteration, then saving\n".encode())
