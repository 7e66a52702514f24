"""SIGTERM and Ctrl-C as a request to stop after the running iteration."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from convbody.training import distributed

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """After ``defer``, a SIGTERM or SIGINT only sets ``signal``; a later one acts as it does outside.

    Later is ``PATIENCE`` seconds: under torchrun a Ctrl-C comes twice, from the terminal and from torchrun.
    Outside the main thread, where Python allows no signal handlers, it never sets anything.
    """

    PATIENCE = 2.0

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._process = os.getpid()
        self._outside: dict[int, Any] = {}
        self._since = 0.0

    def __enter__(self) -> StopRequest:
        return self

    def __exit__(self, *exc: object) -> None:
        while self._outside:
            signal.signal(*self._outside.popitem())

    def defer(self) -> None:
        """From now on until the end, signals wait to be asked for: there is something that can be saved."""
        if not self._outside and threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._outside[number] = signal.signal(number, self._handle)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """While entered, a signal acts as it does outside, and so does one that has come before."""
        deferred = bool(self._outside)
        self.__exit__()
        if self.signal is not None:
            signal.raise_signal(self.signal)
        try:
            yield
        finally:
            if deferred:
                self.defer()

    def over_ranks(self, failed: bool) -> tuple[bool, signal.Signals | None]:
        """Whether any process has ``failed``, and the signal that any has received."""
        received = [self.signal == number for number in _SIGNALS]
        any_failed, *received = distributed.any_over_ranks(failed, *received)
        return any_failed, next((number for number, got in zip(_SIGNALS, received, strict=True) if got), None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A forked data worker. Ctrl-C reaches it too, but the parent ends it, when all is saved.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.signal is not None:
            if time.monotonic() - self._since > self.PATIENCE:
                self.__exit__()
                signal.raise_signal(number)
            return
        self.signal, self._since = signal.Signals(number), time.monotonic()
        # os.write, because the interrupted code may be inside a buffered write to the same stream.
        os.write(2, f"{self.signal.name}: finishing this iteration, then saving\n".encode())
