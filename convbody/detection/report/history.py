"""The course of a training run, read from its ``metrics.jsonl``, as charts."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convbody.detection.report.charts import Series, line_chart, style
from registry import ConvbodyError


@dataclass(frozen=True)
class Chart:
    """One figure of the page: a drawing, and under it the names of its lines."""

    title: str
    svg: str
    legend: list[dict[str, str]]
    """One {"name", "value", "colour", "dash"} per line; "value" is the last one, for reading off."""


def chart_of(title: str, series: list[Series], x_label: str, y_label: str, **axes: Any) -> Chart:
    """The chart of ``series``, whose text version tells where each line begins and ends."""
    told = "; ".join(f"{line.name} from {line.ys[0]:.3g} to {line.ys[-1]:.3g}" for line in series)
    svg = line_chart(series, title=f"{title}: {told}", x_label=x_label, y_label=y_label, **axes)
    legend = []
    for index, line in enumerate(series):
        colour, dash = style(index)
        legend.append({"name": line.name, "value": f"{line.ys[-1]:.3g}", "colour": colour, "dash": dash})
    return Chart(title, svg, legend)


def training_charts(metrics_file: Path) -> list[Chart]:
    """Losses, learning rate and evaluations of a run; none where there is no such file (nothing was trained).

    Raises ConvbodyError for a line that is not a row of metrics.
    """
    if not metrics_file.exists():
        return []
    rows, evaluations = _read(metrics_file)
    charts = []
    if rows:
        at = [row["iteration"] for row in rows]
        terms = list(rows[-1]["losses"])
        lines = [Series("total", at, [row["loss"] for row in rows], strong=True)]
        lines += [Series(term, at, [row["losses"][term] for row in rows]) for term in terms]
        charts.append(chart_of("Training loss", lines, "iteration", "loss"))
        rate = Series("learning rate", at, [row["lr"] for row in rows], strong=True)
        charts.append(chart_of("Learning rate", [rate], "iteration", "learning rate"))
    if evaluations:
        lines = _evaluation_lines(evaluations)
        charts.append(chart_of("Evaluation", lines, "iteration", "score", y_range=(0.0, _top(lines))))
    return charts


def _read(metrics_file: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of training and those of evaluation. A value that is not finite leaves its row out."""
    rows, evaluations = [], []
    for number, line in enumerate(metrics_file.read_text().splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConvbodyError(f"{metrics_file}:{number} is not a line of metrics: {error}") from error
        if "eval" in row:
            evaluations.append(row)
        elif math.isfinite(row["loss"]):
            rows.append(row)
    return rows, evaluations


def _evaluation_lines(evaluations: list[dict[str, Any]]) -> list[Series]:
    """AP and AP50 of every task (with proposals alone, their recall) over the iterations."""
    values: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for row in evaluations:
        for name, value in row["eval"].items():
            if name.endswith(("/AP", "/AP50")) or "proposals/AR@" in name:
                values[name][0].append(row["iteration"])
                values[name][1].append(value)
    return [Series(name, xs, ys, strong=name.endswith("/AP50")) for name, (xs, ys) in values.items()]


def _top(lines: list[Series]) -> float:
    """A round upper end for scores that lie anywhere between 0 and 1."""
    return min(1.0, math.ceil(10 * max(max(line.ys) for line in lines) + 0.5) / 10)
