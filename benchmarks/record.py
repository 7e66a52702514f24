"""What a benchmark leaves: every round as CSV, a table for people, and a plot, with the environment."""

from __future__ import annotations

import csv
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import measure

Rounds = Sequence[Mapping[str, Mapping[str, float]]]
RESULTS = Path(__file__).parent / "results"
_BAR, _LABELS, _WIDTH = 26, 260, 720


def table(rounds: Rounds, reference: str, quantities: Mapping[str, str], digits: int = 2) -> str:
    """A row for each name in ``rounds``: medians, quartiles, and how many times less than ``reference``.

    ``quantities`` are the numbers to show and what the column is called; ratios are those of one round.
    """
    titles = [*quantities.values(), *(f"{reference} / this, {title}" for title in quantities.values())]
    lines = [f"| | {' | '.join(titles)} |", f"|{' --- |' * (len(titles) + 1)}"]
    for name in rounds[0]:
        cells = [measure.quartiles([taken[name][key] for taken in rounds], digits) for key in quantities]
        cells += [
            measure.quartiles([taken[reference][key] / taken[name][key] for taken in rounds])
            for key in quantities
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def bars(rounds: Rounds, quantity: str, title: str) -> str:
    """An SVG picture: a bar as long as the median of each name, and a line from quartile to quartile."""
    values = {name: [taken[name][quantity] for taken in rounds] for name in rounds[0]}
    scale = (_WIDTH - _LABELS - 70) / max(map(max, values.values()))
    height = 30 + _BAR * len(values)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="8" y="18">{escape(title)}</text>'
    ]
    for index, (name, numbers) in enumerate(values.items()):
        middle, low, high = measure.spread(numbers)
        top, end = 28 + _BAR * index, _LABELS + middle * scale
        parts.append(
            f'<text x="{_LABELS - 8}" y="{top + 14}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{_LABELS}" y="{top}" width="{middle * scale:.1f}" height="18" fill="#1f5fbf"/>'
            f'<path d="M{_LABELS + low * scale:.1f} {top + 9}H{_LABELS + high * scale:.1f}" stroke="#000"/>'
            f'<text x="{max(end, _LABELS + high * scale) + 6:.1f}" y="{top + 14}">{middle:.3g}</text>'
        )
    return "".join([*parts, "</svg>\n"])


def save(folder: Path, name: str, text: str, rounds: Rounds, plot: str, packages: Sequence[str]) -> None:
    """Prints ``text`` and writes it, under the command and the environment, as NAME.md, with CSV and SVG."""
    command = shlex.join(["python", f"benchmarks/{name}.py", *sys.argv[1:]])
    page = f"`{command}`, {time.strftime('%Y-%m-%d')}.\n{measure.environment(*packages)}\n\n{text}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(f"{page}\n![{name}]({name}.svg)\n")
    (folder / f"{name}.svg").write_text(plot)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["round", "implementation", "quantity", "value"])
        for number, taken in enumerate(rounds, 1):
            for implementation, numbers in taken.items():
                writer.writerows([number, implementation, *item] for item in numbers.items())
    print(page)
