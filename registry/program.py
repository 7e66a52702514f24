"""How a program ends: a user's error is one line, and so is a signal to stop; a closed pipe is silent."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from registry.errors import ConvbodyError, printable

_PATIENCE = 2.0  # seconds: under torchrun a Ctrl-C comes twice, from the terminal and from torchrun


class Stopped(KeyboardInterrupt):
    """Raised wherever a program is when SIGTERM or Ctrl-C arrives; ``signal`` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


def status_of(main: Callable[[], int | None]) -> int:
    """Calls ``main`` and gives the exit status of the program.

    What ``main`` returns (None: 0); 2 after a ConvbodyError, of which the message and each detail is printed
    as one line; after SIGTERM and Ctrl-C 128 + the number of the signal (143, 130); 128 + 13 where the reader
    of the output has gone, such as ``head``.
    """
    with _StopSignals() as stop:
        try:
            status = main() or 0
            sys.stdout.flush()
            return status
        except ConvbodyError as error:
            lines = (f"error: {error.message}", *(f"  {detail}" for detail in error.details))
            print("\n".join(map(printable, lines)), file=sys.stderr)
            return 2
        except BaseException as error:
            # What a signal interrupts may fail in its own words, such as the import of a compiled module.
            number = stop.number or (signal.SIGINT if isinstance(error, KeyboardInterrupt) else None)
            if number is not None:
                print(f"interrupted by {signal.Signals(number).name}", file=sys.stderr)
                return 128 + number
            if not isinstance(error, BrokenPipeError) or not output_is_closed():
                raise
            return 128 + signal.SIGPIPE


class _StopSignals:
    """While entered, the first SIGTERM or SIGINT raises ``Stopped``; a later one ends the program at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._since = 0.0
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}
        self._previous_hook = sys.unraisablehook

    def __enter__(self) -> _StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
            self._previous_hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return self

    def __exit__(self, *exc: object) -> None:
        if self.number is not None:
            return  # the program is ending, and is not to be interrupted in that
        while self._previous:
            signal.signal(*self._previous.popitem())
            sys.unraisablehook = self._previous_hook

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A forked process. Ctrl-C reaches it too, but the parent ends it.
            if number == signal.SIGTERM:
                os._exit(128 + number)
        elif self.number is None:
            self.number, self._since = number, time.monotonic()
            raise Stopped(number)
        elif time.monotonic() - self._since > _PATIENCE:
            os._exit(128 + self.number)

    def _unraisable(self, args: sys.UnraisableHookArgs) -> None:
        if not isinstance(args.exc_value, Stopped):
            return self._previous_hook(args)
        # It was raised in a destructor, where Python drops exceptions: nothing else would end the program.
        print(f"interrupted by {args.exc_value.signal.name}", file=sys.stderr)
        os._exit(128 + args.exc_value.signal)


def output_is_closed() -> bool:
    """Whether nobody reads the output; if so, what Python still wants to write there is dropped."""
    closed = False
    for stream in (sys.stdout, sys.stderr):
        descriptor = stream.fileno()
        poll = select.poll()
        poll.register(descriptor, 0)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
            closed = True
    return closed
