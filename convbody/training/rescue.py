"""Errors in the middle of a run: all processes have the same one, and the state is saved first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from convbody.training import distributed
from convbody.training.checkpoint import CheckpointError
from registry import ConvbodyError

Batch = TypeVar("Batch")
Error = TypeVar("Error", bound=ConvbodyError)


def draw(stream: Iterator[Batch]) -> Batch:
    """The next batch. An error in drawing one is raised in all processes, before any waits for another.

    Raises:
        ConvbodyError: what the stream raises, or the end of it.
    """
    failure: ConvbodyError | None = None
    try:
        batch = next(stream)
    except StopIteration:
        failure = ConvbodyError("the stream of batches ended; it has to be endless")
    except ConvbodyError as error:
        failure = error
    if any(distributed.any_over_ranks(failure is not None)):
        raise common(failure) from None
    return batch


@contextmanager
def together() -> Iterator[None]:
    """While entered, a ConvbodyError of one process is raised in all, so that none waits for another."""
    failure: ConvbodyError | None = None
    try:
        yield
    except ConvbodyError as error:
        failure = error
    if any(distributed.any_over_ranks(failure is not None)):
        raise common(failure) from None


def common(failure: Error | None) -> Error:
    """The first of the failures that processes have, at least one of which has one; all call it."""
    return next(found for found in distributed.all_gather_object(failure) if found)


def rescued(error: Error, save: Callable[[int], Path], iteration: int) -> Error:
    """``error``, which all processes have, with where the state after ``iteration`` is saved, or why not.

    ``save`` writes it and gives the path, or raises CheckpointError.
    """
    try:
        rescue = f"--resume goes on from {save(iteration)}"
    except CheckpointError as failure:
        rescue = str(failure)
    error.args = (f"{error}; {rescue}",)
    return error
