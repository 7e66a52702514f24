"""What keeps a run from starting, gathered so that a user sees all of it at once."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from convbody.training import distributed
from registry import ConvbodyError
from registry.errors import in_one_line

P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger(__name__)


@contextmanager
def told_in_one_line(what: str) -> Iterator[None]:
    """While entered, an error of any kind becomes a ConvbodyError that says what fails, and where."""
    try:
        yield
    except ConvbodyError:
        raise
    except Exception as error:
        logger.debug("%s fails", what, exc_info=True)
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        raise ConvbodyError(f"{what} fails: {in_one_line(error)} ({place})") from error


class PreflightError(ConvbodyError):
    """More than one thing keeps a run from starting; the details have a line for each."""


class Findings:
    """The errors that the checks before a run have raised."""

    def __init__(self) -> None:
        self._errors: list[ConvbodyError] = []

    def __bool__(self) -> bool:
        return bool(self._errors)

    def attempt(self, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What ``check`` gives; None where it raises a ConvbodyError, which becomes a finding."""
        try:
            return check(*args, **kwargs)
        except ConvbodyError as error:
            self.add(error)
            return None

    @contextmanager
    def rehearsing(self, what: str) -> Iterator[None]:
        """While entered, an error of any kind is a finding: what runs may be a plugin's, or a library's."""
        try:
            with told_in_one_line(what):
                yield
        except ConvbodyError as error:
            self.add(error)

    def add(self, error: ConvbodyError) -> None:
        """Count one more, unless it has been found before."""
        if str(error) not in map(str, self._errors):
            self._errors.append(error)

    def stop_if_any(self) -> None:
        """Ends a run that has findings, in every process alike; called on all ranks.

        Raises:
            ConvbodyError: the finding, where there is one; a PreflightError that lists them, of several.
        """
        found = Findings()
        for rank, errors in enumerate(distributed.all_gather_object([_plain(each) for each in self._errors])):
            for message, details in errors:
                where = f" [rank {rank}]" if rank else ""
                if (message, details) not in map(_plain, found._errors):
                    found.add(ConvbodyError(f"{message}{where}", details=details))
        if len(found._errors) == 1:
            raise self._errors[0] if self._errors else found._errors[0]
        if found:
            lines = [line for each in found._errors for line in (each.message, *_indented(each.details))]
            raise PreflightError(f"{len(found._errors)} findings before the first iteration:", details=lines)


def _plain(error: ConvbodyError) -> tuple[str, tuple[str, ...]]:
    return error.message, error.details


def _indented(details: Sequence[str]) -> list[str]:
    return [f"  {detail}" for detail in details]
