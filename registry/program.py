"""How a program ends: an error of the user's is one line, and so is Ctrl-C; a closed pipe is silent."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from collections.abc import Callable

from registry.errors import ConvbodyError, printable


def status_of(main: Callable[[], int | None]) -> int:
    """Calls ``main`` and gives the exit status of the program.

    What ``main`` returns (None: 0); 2 after a ConvbodyError, which is printed as one line; 128 + 2 after
    Ctrl-C; 128 + 13 where the reader of the output has gone, such as ``head``.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show ends no program
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main() or 0
        sys.stdout.flush()
        return status
    except ConvbodyError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        return 128 + signal.SIGPIPE


def _output_is_closed() -> bool:
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
