"""The results of the GPU check: one JSON file, and one Markdown page that says all of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOG_LINES = 40  # of a part that did not end well, on the page


@dataclass
class Part:
    """One part and how it went.

    `state` is waiting, running, ok, failed (a row failed), incomplete (a row says what was not checked),
    crashed (it ended otherwise than its rows say), timed out, or not run; `reason` says more.
    """

    name: str
    state: str = "waiting"
    reason: str = ""
    seconds: float | None = None
    bound: float | None = None
    found: dict[str, Any] = field(default_factory=dict)  # what the part wrote

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Its rows so far."""
        rows = self.found.get("rows", [])
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    @property
    def facts(self) -> dict[str, Any]:
        """What else it wrote."""
        return {name: value for name, value in self.found.items() if name != "rows"}

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The rows that failed."""
        return [row for row in self.rows if row.get("ok") is False]

    @property
    def missed(self) -> list[dict[str, Any]]:
        """The rows that say what was not checked."""
        return [row for row in self.rows if row.get("missed")]

    def as_json(self) -> dict[str, Any]:
        """Everything, for the file."""
        how = {"state": self.state, "reason": self.reason, "seconds": self.seconds, "bound": self.bound}
        return {**how, "facts": self.facts, "rows": self.rows}

    def line(self) -> str:
        """How it went, in one line."""
        time = "" if self.seconds is None else f" in {self.seconds:.1f} s of {self.bound or 0:.0f}"
        passed = sum(row.get("ok") is True for row in self.rows)
        counts = f", {passed} right, {len(self.failures)} wrong" if self.rows else ""
        counts += f", {len(self.missed)} not checked" if self.missed else ""
        return f"{self.name}: {self.state}{time}{counts}" + (f" ({self.reason})" if self.reason else "")


@dataclass
class Report:
    """All results; `write` may be called at any time."""

    out: Path
    facts: dict[str, Any]  # command, machine, device, versions, ...
    parts: list[Part]

    def write(self) -> None:
        """Writes gpu_check.json and gpu_check.md, each replaced as a whole."""
        content = {**self.facts, "parts": {part.name: part.as_json() for part in self.parts}}
        for name, text in (
            ("gpu_check.json", json.dumps(content, indent=1, default=str)),
            ("gpu_check.md", self.page()),
        ):
            temporary = self.out / f".{name}"
            temporary.write_text(text, errors="replace")
            temporary.replace(self.out / name)

    def page(self) -> str:
        """The Markdown page."""
        blocks = [f"# GPU check: {self.verdict()}", facts_table(self.facts)]
        blocks.append("\n".join(f"* {part.line()}" for part in self.parts))
        failing = [f"* **{part.name}**, {row_line(row)}" for part in self.parts for row in part.failures]
        missed = [f"* **{part.name}**, {row_line(row)}" for part in self.parts for row in part.missed]
        for heading, lines in (("Wrong", failing), ("Not checked", missed)):
            if lines:
                blocks += [f"## {heading}", "\n".join(lines)]
        for part in self.parts:
            if part.rows or part.state not in ("waiting", "not run"):
                blocks += part_blocks(part, self.out)
        return "\n\n".join(blocks) + "\n"

    def verdict(self) -> str:
        """What came of it, in some words."""
        by_state: dict[str, list[str]] = {}
        for part in self.parts:
            by_state.setdefault(part.state, []).append(part.name)
        if set(by_state) == {"ok"}:
            return "all right"
        return "; ".join(f"{state}: {', '.join(names)}" for state, names in by_state.items())


def part_blocks(part: Part, out: Path) -> list[str]:
    """A heading, the rows, what else the part wrote, details of failures, and the end of a bad log."""
    blocks = [f"## {part.name}: {part.state}", part.line()]
    if part.rows:
        lines = ["| | | | |", "| --- | --- | ---: | --- |", *map(table_row, part.rows)]
        blocks.append("\n".join(lines))
    if part.facts:
        blocks.append(facts_table(part.facts))
    for row in part.failures:
        if "\n" in (detail := str(row.get("detail", "")).strip()):
            blocks += [f"{row.get('name')}:", fenced(detail)]
    log = out / f"{part.name}.log"
    if part.state in ("failed", "crashed", "timed out") and log.exists():
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        blocks += [f"The end of {log.name}:", fenced("\n".join(lines))]
    return blocks


def facts_table(facts: Mapping[str, Any]) -> str:
    """Names and values, one a row; what is a mapping has its names after its own."""
    lines = ["| | |", "| --- | --- |"]
    lines += [f"| {cell(name)} | {cell(shown(value))} |" for name, value in flattened(facts)]
    return "\n".join(lines)


def flattened(facts: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    """The leaves of nested mappings."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{before}{name}: ")
        else:
            yield f"{before}{name}", value


def table_row(row: Mapping[str, Any]) -> str:
    """A row of a part as a row of a table."""
    says = {"True": "ok", "False": "**wrong**"}.get(str(row.get("ok")), "missed" if row.get("missed") else "")
    value = with_unit(row)
    first = (str(row.get("detail", "")).strip().splitlines() or [""])[0]
    return f"| {says} | {cell(str(row.get('name')))} | {cell(value)} | {cell(first)} |"


def row_line(row: Mapping[str, Any]) -> str:
    """A row of a part as one line of text."""
    value = with_unit(row)
    first = (str(row.get("detail", "")).strip().splitlines() or [""])[0]
    return ": ".join(text for text in (str(row.get("name")), value, first) if text)


def with_unit(row: Mapping[str, Any]) -> str:
    """The value of a row and its unit; nothing without a value."""
    value = shown(row.get("value"))
    return f"{value} {row.get('unit', '')}".strip() if value else ""


def shown(value: Any) -> str:
    """A value as text; numbers with four digits that count."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(filter(None, map(shown, value)))
    return "" if value is None else str(value)


def cell(text: str) -> str:
    """Text that stays in its cell of a table."""
    return re.sub(r"\s*\n\s*", " / ", text.strip()).replace("|", "\\|")


def fenced(text: str) -> str:
    """Text as it is, in a block of code."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
