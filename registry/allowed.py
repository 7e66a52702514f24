"""What may stand in a config key beyond its type: a range, a length."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from registry.errors import ConfigError, shown, source_phrase


@dataclass(frozen=True)
class Allowed:
    """A condition on a value, and how an error words it: "takes ``text``"."""

    holds: Callable[[Any], bool]
    text: str


#: Dotted key -> what may stand there; keys that are not here take every value of their type.
ALLOWED: dict[str, Allowed] = {}


def at_least(least: float) -> Allowed:
    """A finite number from ``least`` on."""
    return Allowed(lambda value: math.isfinite(value) and value >= least, f"{least} or more")


def at_most(greatest: float) -> Allowed:
    """A finite number up to ``greatest``."""
    return Allowed(lambda value: math.isfinite(value) and value <= greatest, f"{greatest} or less")


def above(bound: float) -> Allowed:
    """A finite number greater than ``bound``."""
    return Allowed(lambda value: math.isfinite(value) and value > bound, f"a number above {bound}")


def between(least: float, greatest: float) -> Allowed:
    """A number from ``least`` to ``greatest``, both included."""
    return Allowed(lambda value: least <= value <= greatest, f"{least} to {greatest}")


def each(item: Allowed, *counts: int) -> Allowed:
    """A sequence of such items, of one of these lengths (none given: one or more items)."""
    many = " or ".join(map(str, counts)) or "one or more"

    def holds(value: Any) -> bool:
        right = len(value) in counts if counts else len(value) > 0
        return right and all(item.holds(part) for part in value)

    return Allowed(holds, f"{many} numbers, each {item.text}")


def check_allowed(key: str, value: Any, source: str) -> None:
    """Raises ConfigError where ``key`` may not hold ``value``."""
    allowed = ALLOWED.get(key)
    if allowed is not None and not allowed.holds(value):
        raise ConfigError(f"{key} ({source_phrase(source)}) takes {allowed.text}, not {shown(value)}")


def declare(path: str, allowed: Mapping[str, Allowed]) -> None:
    """Adds conditions for keys under the dotted ``path``."""
    ALLOWED.update({f"{path}.{name}" if path else name: condition for name, condition in allowed.items()})
