"""The batches of a loader whose worker processes may be killed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from registry import ConvbodyError
from registry.errors import in_one_line

Batch = TypeVar("Batch")


def drawn(loader: Iterable[Batch]) -> Iterator[Batch]:
    """What a DataLoader yields.

    Raises:
        ConvbodyError: one of its worker processes has ended; raised where a batch is drawn, nowhere else.
    """
    with _kept_handler(signal.SIGCHLD):
        batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise ConvbodyError(
                "a process that loads images was killed, mostly because memory ran out; lower "
                f"DATALOADER.NUM_WORKERS ({in_one_line(error)})"
            ) from None
        yield batch


@contextmanager
def _kept_handler(number: signal.Signals) -> Iterator[None]:
    """Undoes what is done inside to the handling of a signal.

    torch's handler of SIGCHLD raises an error in whatever runs when a worker ends, such as an update of the
    weights, and leaves half of it. A loader that is asked for a batch finds out by itself.
    """
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, before if before is not None else signal.SIG_DFL)
