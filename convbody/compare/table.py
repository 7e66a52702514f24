"""A comparison as rows of groups: a table for the terminal, and JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convbody.compare.record import Place
from convbody.compare.verdict import FACTOR, Comparison, Row, Status
from convbody.compare.words import NOTE, times, verdict_sentences


@dataclass(frozen=True)
class Group:
    """The places of one phase in one part of the network; ``worst`` is the one furthest beyond rounding."""

    phase: str
    name: str
    rows: tuple[Row, ...]
    worst: Row

    @property
    def verdict(self) -> str:
        """One word or two: how the worst place compares."""
        if not self.worst.parts:
            return "equal" if all(row.status is Status.EXACT for row in self.rows) else "same"
        return "parts" if self.worst.status is Status.PARTS else self.worst.status.value


def grouped(rows: Sequence[Row]) -> list[Group]:
    """The rows by phase and part of the network, both in the order in which they come about."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.place.phase, part_of(row.place)), []).append(row)
    return [
        Group(phase, name, tuple(held), max(held, key=_badness)) for (phase, name), held in groups.items()
    ]


def part_of(place: Place) -> str:
    """The part of a network that a place is in: its name up to a number, and at most two words.

    >>> part_of(Place("gradients", "backbone.body.layer1.0.conv1.weight"))
    'body.layer1'
    """
    if place.phase == "weights":
        return "all"
    if place.phase == "loss" or place.name.startswith("loss"):
        return "loss"
    name = place.name if place.phase == "forward" else place.name.rpartition(".")[0]
    words = name.removeprefix("backbone.").split(".")
    count = next((index for index, word in enumerate(words) if word.isdigit()), len(words))
    return ".".join(words[: min(count, 2)]) or name


def text_table(comparison: Comparison) -> str:
    """The groups, what only one side has, and the conclusion."""
    lines = [f"{'':10} {'':26} {'places':>6}  {'error':>8}  {'rounding':>8}  verdict"]
    phase = ""
    for group in grouped(comparison.rows):
        first = group.phase if group.phase != phase else ""
        phase = group.phase
        numbers = f"{number(group.worst.error):>8}  {number(group.worst.rounding):>8}"
        lines.append(f"{first:10} {group.name:26} {len(group.rows):6}  {numbers}  {verdict_of(group)}")
    lines += ["", NOTE]
    lines += one_sided(comparison)
    lines += ["", *verdict_sentences(comparison)]
    return "\n".join(line.rstrip() for line in lines)


def one_sided(comparison: Comparison) -> list[str]:
    """Lines on what could not be compared, as only one side has it."""
    pairing = comparison.pairing
    listed = (
        ("only here", pairing.only_first),
        ("only there", pairing.only_second),
        ("gradients on one side alone", comparison.one_sided),
    )
    return [f"{title}: {_few(names)}" for title, names in listed if names]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything, for programs. Numbers that are not finite are null."""
    parting = comparison.parting
    return {
        "first": comparison.first.label,
        "second": comparison.second.label,
        "same": parting is None,
        "verdict": verdict_sentences(comparison),
        "parting": None if parting is None else _row(parting),
        "factor": FACTOR,
        "only_first": list(comparison.pairing.only_first),
        "only_second": list(comparison.pairing.only_second),
        "gradient_on_one_side": comparison.one_sided,
        "facts": [comparison.first.facts, comparison.second.facts],
        "places": [_row(row) for row in comparison.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    numbers = {key: getattr(row, key) for key in ("error", "rounding", "size", "excess")}
    return {
        **vars(row.place),
        "other": row.other,
        "shape": list(row.shape),
        **{key: value if math.isfinite(value) else None for key, value in numbers.items()},
        "status": row.status.value,
    }


def _badness(row: Row) -> tuple[bool, bool, float]:
    return row.parts, row.status is not Status.NOISE, row.excess


def verdict_of(group: Group) -> str:
    """How a group compares, with the number of places that say otherwise."""
    if group.worst.status is not Status.PARTS:
        noise = sum(row.status is Status.NOISE for row in group.rows)
        return group.verdict + (f", {noise} nothing but rounding" if noise else "")
    count = sum(row.parts for row in group.rows)
    if group.worst.excess <= FACTOR:
        return f"parts at {count}, in float64"
    return f"parts at {count}, by {times(group.worst.excess)} the rounding"


def number(value: float) -> str:
    """Two digits; "-" for one that is not finite."""
    return "-" if not math.isfinite(value) else "0" if value == 0 else f"{value:.1e}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
