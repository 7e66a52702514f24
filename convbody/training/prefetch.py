"""Batches that are on the GPU before they are needed: each is copied while the one before is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

Batch = TypeVar("Batch")


def on_device(stream: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """``stream`` with its batches on ``device``, copied one ahead; on the CPU, ``stream`` as it is.

    Out of locked memory a GPU copies by itself, on a stream of its own.
    """
    return OneAhead(stream, SideStream(device).start) if device.type == "cuda" else stream


class OneAhead(Iterator[Batch], Generic[Batch]):
    """The batches of a stream, the next of which is drawn, and ``start`` called with it, ahead.

    What ``start`` gives is called where the batch is wanted. An error in drawing a batch is raised when it is
    that one's turn, so that the step before still counts.
    """

    def __init__(self, stream: Iterator[Batch], start: Callable[[Batch], Callable[[], Batch]]) -> None:
        self._stream, self._start = stream, start
        self._next: Callable[[], Batch] | None = None

    def __next__(self) -> Batch:
        batch = (self._next or self._draw())()
        self._next = self._draw()
        return batch

    def _draw(self) -> Callable[[], Batch]:
        try:
            return self._start(next(self._stream))
        except Exception as error:
            failure = error

        def fail() -> Batch:
            raise failure

        return fail


class SideStream:
    """Copies to a GPU beside what it computes."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._side = device, torch.cuda.Stream(device)

    def start(self, batch: Batch) -> Callable[[], Batch]:
        """Starts to copy the tensors of nested tuples, lists and dicts; what it gives waits for them.

        It is the GPU that waits, not the program.
        """
        try:
            with torch.cuda.stream(self._side):
                copied = tree_map_only(Tensor, lambda t: t.to(self._device, non_blocking=True), batch)
        except torch.OutOfMemoryError:
            return lambda: batch  # what uses it has to copy it, and says what would fit

        def finish() -> Batch:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._side)
            # Memory of the side stream: not to be given to the next copy before the current one has used it.
            for tensor in tree_leaves(copied):
                if isinstance(tensor, Tensor):
                    tensor.record_stream(current)
            return copied

        return finish
