"""Ids as files write them (numbers of any size, text), and the numbers that stand for them here."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from convbody.detection.data.fields import FieldError, Scalar, identity
from convbody.detection.data.json_file import original_text
from convbody.detection.data.records import OriginalId
from convbody.detection.data.report import shortened

# Readers of JSON that keep numbers as float64 know larger ones only roughly.
_LARGEST = 2**53


def id_key(value: Scalar, what: str, path: str = ".id") -> OriginalId:
    """What the id ``value`` of ``what``, such as "image", is compared by.

    Raises FieldError, which says ``path``, for no id or a number with a fraction.
    """
    try:
        key = identity(value)
    except ValueError:
        raise FieldError(f"{what} id that is neither a whole number nor text", path, repr(value)) from None
    if key is None:
        raise FieldError(f"{what} without an id", path)
    return key


@dataclass
class Ids:
    """The ids of one list of a file, in its order."""

    what: str
    rows: dict[OriginalId, int] = field(default_factory=dict)
    """What an id is compared by -> its position in the list."""
    _texts: dict[int, str] = field(default_factory=dict)
    """Position -> an id that is text in the file."""

    def add(self, value: Scalar, position: int) -> None:
        """Enter the id of an entry. Raises FieldError where it is none, or was given before."""
        key = id_key(value, self.what)
        if key in self.rows:
            raise FieldError(f"{self.what} id given twice", ".id", shortened(repr(value)))
        self.rows[key] = position
        if isinstance(value, str):
            self._texts[position] = original_text(value)

    def numbers(self, count: int) -> tuple[np.ndarray, dict[int, OriginalId]]:
        """The numbers (count,), int64, that stand for the ids, and what to write in their place.

        A whole number of up to 53 bits stands for itself, also where it is text; other ids get the numbers
        after the largest of these, in the file's order. Positions without an id have -1.
        """
        numbers = np.full(count, -1, np.int64)
        small = {row: key for key, row in self.rows.items() if isinstance(key, int) and abs(key) <= _LARGEST}
        following = max(max(small.values(), default=0), 0) + 1
        originals: dict[int, OriginalId] = {}
        for key, row in self.rows.items():
            if row in small:
                numbers[row] = small[row]
            else:
                numbers[row] = following
                following += 1
            if row in self._texts or row not in small:
                originals[int(numbers[row])] = self._texts.get(row, key)
        return numbers, originals
