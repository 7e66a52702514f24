"""One HTML page of a search: what it preferred over time, what it found, and whether that beats chance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

import jinja2
import torch

from convbody.detection.report.charts import Series
from convbody.detection.report.history import Chart, chart_of
from convbody.search.compare import Match, verdict
from convbody.search.derive import chart
from convbody.search.latency import latencies, read_table
from convbody.search.space import SearchSpace, space_from_cfg
from registry import Config, ConvbodyError

_CELL, _ROW = 14, 11  # of a heat map, in units of its drawing


def write_page(cfg: Config, folders: Sequence[str], matches: Sequence[Match], path: Path) -> None:
    """Write the page of the searches in ``folders``; it needs no other file.

    Raises ConvbodyError for a folder without metrics, and where the page cannot be written.
    """
    space = space_from_cfg(cfg)
    table = latencies(cfg, space)
    histories = [_history(Path(folder)) for folder in folders]
    page = _template().render(
        verdict=verdict(matches),
        matches=[_row(match) for match in matches],
        charts=[_accuracy_chart(matches), *_course_charts(histories)],
        maps=[_heat_map(space, histories[0], layer) for layer in range(len(space.layers))],
        candidates=space.candidates,
        blocks=chart(space, table, matches[0].searched.choice),
        facts=_facts(cfg, matches),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConvbodyError(f"cannot write {path}: {error.strerror}") from error


def _template() -> jinja2.Template:
    style = files("convbody.detection.report").joinpath("style.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.globals["style"] = style
    return environment.from_string(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))


def _history(folder: Path) -> list[dict[str, Any]]:
    """The rows of a search, one for each epoch."""
    path = folder / "metrics.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ConvbodyError(f"{path} is no record of a search; search first") from error
    return [row for row in rows if "theta" in row]


def _row(match: Match) -> dict[str, str]:
    tops = [trained.top1 for trained in match.randoms]
    return {
        "seed": str(match.seed),
        "latency": f"{match.searched.latency_us:,.0f}",
        "searched": f"{match.searched.top1:.2%}",
        "random": f"{median(tops):.2%}",
        "range": f"{min(tops):.2%} to {max(tops):.2%}",
        "lead": f"{100 * match.lead:+.2f}",
    }


def _accuracy_chart(matches: Sequence[Match]) -> Chart:
    series = [
        Series(
            name, [each.latency_us / 1000 for each in group], [each.top1 for each in group], strong, (), True
        )
        for name, group, strong in (
            ("searched", [match.searched for match in matches], True),
            ("random, as quick", [each for match in matches for each in match.randoms], False),
        )
    ]
    tops = [y for line in series for y in line.ys]
    margin = max((max(tops) - min(tops)) / 10, 0.002)
    figure = chart_of(
        "Trained alone", series, "latency by the table, ms", "top-1 accuracy",
        y_range=(max(min(tops) - margin, 0.0), min(max(tops) + margin, 1.0)),
    )  # fmt: skip
    for entry, line in zip(figure.legend, series, strict=True):
        entry["value"] = f"median {median(line.ys):.2%}"
    return figure


def _course_charts(histories: Sequence[list[dict[str, Any]]]) -> list[Chart]:
    def lines(key: str) -> list[Series]:
        return [
            Series(
                f"search {seed}",
                [row["epoch"] + 1 for row in rows],
                [row["latency_us"][key] / 1000 for row in rows],
                seed == 0,
            )
            for seed, rows in enumerate(histories)
        ]

    return [chart_of("Expected latency", lines("expected"), "epoch", "ms")]


def _heat_map(space: SearchSpace, rows: Sequence[dict[str, Any]], layer: int) -> dict[str, str]:
    """How likely each candidate of a layer was after each epoch: a row a candidate, dark is likely."""
    names = [f"{layer:02}/{op}" for op in space.candidates]
    shares = torch.tensor([[row["theta"][name] for name in names] for row in rows]).softmax(1)
    cells = [
        f'<rect x="{_CELL * epoch}" y="{_ROW * place}" width="{_CELL}" height="{_ROW}" fill="#1f5fbf" '
        f'fill-opacity="{share:.3f}"><title>epoch {epoch + 1}: {op} {share:.1%}</title></rect>'
        for epoch, row in enumerate(shares.tolist())
        for place, (op, share) in enumerate(zip(space.candidates, row, strict=True))
    ]
    best = int(shares[-1].argmax())
    width, height = _CELL * len(rows), _ROW * len(names)
    told = f"layer {layer}: in the end {space.candidates[best]} with {shares[-1, best]:.0%}"
    frame = f'viewBox="0 0 {width} {height}" preserveAspectRatio="none"'
    svg = f'<svg {frame} role="img" aria-label="{told}">{"".join(cells)}</svg>'
    shape = space.layers[layer]
    title = f"{layer}: {shape.in_channels}→{shape.out_channels} /{shape.stride}"
    return {"title": title, "svg": svg, "best": f"{space.candidates[best]} {shares[-1, best]:.0%}"}


def _facts(cfg: Config, matches: Sequence[Match]) -> dict[str, str]:
    table = read_table(Path(cfg.SEARCH.LATENCY.TABLE))
    conditions, versions = table.conditions, table.facts.get("versions", {})
    return {
        "Images": ", ".join(cfg.DATASETS.TRAIN),
        "Layers": str(len(matches[0].searched.choice)),
        "Candidates": ", ".join(cfg.SEARCH.SPACE.CANDIDATES),
        "Latency": f"{conditions['size']} pixels, batch {conditions['batch']}, {conditions['precision']}",
        "Device": f"{conditions['device_name']}, {conditions['threads']} thread(s)",
        "Trained alone": f"{cfg.SOLVER.MAX_ITER} iterations of {cfg.SOLVER.IMS_PER_BATCH} images each",
        "Versions": ", ".join(f"{name} {text}" for name, text in versions.items()),
    }
