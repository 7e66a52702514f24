"""One HTML page of a comparison: the verdict, the error by depth, and every place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import jinja2

from convbody.compare.table import grouped, number, one_sided, verdict_of
from convbody.compare.verdict import FACTOR, Comparison, Row, Status
from convbody.compare.words import times, verdict_sentences
from convbody.detection.report.charts import Series
from convbody.detection.report.history import Chart, chart_of
from registry import ConvbodyError

_TITLES = {
    "forward": "Outputs of the layers, first to last",
    "gradients": "Gradients of the weights, last layer to first",
}
_HIGHEST = 10.0  # charts end here: an error of ten times the value is as wrong as can be


def write_page(comparison: Comparison, path: Path) -> None:
    """Writes the page; it needs no other file. Raises ConvbodyError where that is not possible."""
    worst = max(comparison.rows, key=lambda row: (row.status is not Status.NOISE, row.excess))
    page = _template().render(
        first=comparison.first.label,
        second=comparison.second.label,
        same=comparison.parting is None,
        sentences=verdict_sentences(comparison),
        parting=comparison.parting,
        shown=comparison.parting or worst,
        noise=sum(row.status is Status.NOISE for row in comparison.rows),
        charts=_charts(comparison),
        groups=grouped(comparison.rows),
        rows=comparison.rows,
        one_sided=one_sided(comparison),
        facts=_facts(comparison),
        factor=FACTOR,
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConvbodyError(f"cannot write {path}: {error.strerror}") from error


def _template() -> jinja2.Template:
    report, own = files("convbody.detection.report"), files(__package__)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.globals["style"] = report.joinpath("style.css").read_text(encoding="utf-8")
    environment.globals["own_style"] = own.joinpath("page.css").read_text(encoding="utf-8")
    environment.filters |= {"number": number, "times": times, "verdict": verdict_of}
    return environment.from_string(own.joinpath("page.html").read_text(encoding="utf-8"))


def _charts(comparison: Comparison) -> list[Chart]:
    """A chart of each phase that has a depth.

    Left out are a module's inputs, which are the outputs of others, and what does not move in a step.
    """
    charts = []
    phases = dict.fromkeys(row.place.phase for row in comparison.rows)
    for phase in phases:
        if phase in ("weights", "loss"):
            continue
        rows = [
            row
            for row in comparison.rows
            if row.place.phase == phase
            and row.place.what != "input"
            and row.status in (Status.EXACT, Status.ROUNDING, Status.PARTS)
            and (row.error or row.size)
        ]
        if rows:
            title = _TITLES.get(phase, f"Change of the weights and buffers after {phase}")
            charts.append(_chart(title, rows, comparison.parting))
    return charts


def _chart(title: str, rows: Sequence[Row], parting: Row | None) -> Chart:
    xs = list(range(1, len(rows) + 1))
    labels = [
        f"{row.place}: error {number(row.error)}, rounding {number(row.rounding)} ({row.status.value})"
        for row in rows
    ]
    errors = [row.error for row in rows]
    roundings = [row.rounding for row in rows]
    series = [
        Series("error", xs, errors, strong=True, labels=labels),
        Series("rounding of both sides", xs, roundings, labels=labels),
    ]
    if parting in rows:
        at = rows.index(parting)
        series.append(Series("first parting", [xs[at]], [errors[at]]))
    positive = [value for value in errors + roundings if value > 0]
    low = 10.0 ** math.floor(math.log10(min(positive, default=1e-7)))
    high = min(10.0 ** math.ceil(math.log10(max(positive, default=1e-6))), _HIGHEST)
    chart = chart_of(
        title,
        series,
        "place",
        "relative error",
        y_range=(low / 10, max(high, low * 10)),
        y_log=True,
        width=1040,
    )
    for entry, line in zip(chart.legend, series, strict=True):
        entry["value"] = f"up to {number(max(line.ys))}" if len(line.ys) > 1 else number(line.ys[0])
    return chart


def _facts(comparison: Comparison) -> dict[str, str]:
    facts = {}
    for side, record in (("here", comparison.first), ("there", comparison.second)):
        facts[f"Model {side}"] = record.label
        versions = record.facts.get("versions")
        if versions:
            facts[f"Versions {side}"] = ", ".join(f"{name} {text}" for name, text in versions.items())
    images = comparison.first.batch["images"]
    facts["Batch"] = " x ".join(map(str, images.shape))
    facts["Loss"] = comparison.first.loss
    facts["Steps"] = str(comparison.first.steps)
    return facts
