"""Classes are known by their names: which label each has, and whether two data sets mean the same ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

from registry import Config, ConfigError

Id = TypeVar("Id")
#: Names by label, lowest label first; None is a label that no class has.
ClassNames = Sequence[str | None]

_MOST_SHOWN = 20


def distinct_names(names: Mapping[Id, str]) -> dict[Id, str]:
    """The name of each id, with the id behind it where several share a name: "crane (3)", "crane (7)"."""
    counts = Counter(names.values())
    return {key: name if counts[name] == 1 else f"{name} ({key})" for key, name in names.items()}


def listed(names: ClassNames) -> str:
    """The names in one line, for messages: "red, blue", and how many there are where they are many."""
    known = [" ".join(name.split()) for name in names if name is not None]
    if len(known) > _MOST_SHOWN:
        return f"{', '.join(known[:_MOST_SHOWN])}, ... ({len(known)} classes)"
    return ", ".join(known) or "none"


def labels_by_name(classes: ClassNames, first: int) -> dict[str, int]:
    """The label of each class, where the first of ``classes`` has the label ``first``."""
    return {name: label for label, name in enumerate(classes, start=first) if name is not None}


def check_known(own: Sequence[str], classes: ClassNames, who: str, owner: str, key: str, cfg: Config) -> None:
    """Raises ConfigError where a data set has a class that is not among ``classes``.

    ``who`` is the data set and ``owner`` what has ``classes``, in words; ``key`` is what names the data set.
    """
    unknown = sorted(set(own) - {name for name in classes if name is not None})
    if unknown:
        raise ConfigError(
            f"{who} has the classes {listed(own)}, and {owner} {listed(classes)}, without {listed(unknown)}; "
            "give the same class the same name",
            key,
            cfg,
        )


def check_same(own: Sequence[str], classes: ClassNames, who: str, owner: str, key: str, cfg: Config) -> None:
    """Raises ConfigError unless a data set has all of ``classes`` and no other, in whatever order."""
    check_known(own, classes, who, owner, key, cfg)
    missing = sorted({name for name in classes if name is not None} - set(own))
    if missing:
        raise ConfigError(
            f"{who} has the classes {listed(own)}, and {owner} {listed(classes)}, with {listed(missing)}, "
            "too; all data sets that are trained on have the same classes",
            key,
            cfg,
        )
