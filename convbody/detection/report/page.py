"""Write ``report.html``: what was trained on what, how well it does, and what it looks like."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import torch

from convbody.detection.data import CocoDataset
from convbody.detection.evaluation.result import EvaluationResult
from convbody.detection.report.charts import Series
from convbody.detection.report.history import Chart, chart_of, training_charts
from convbody.detection.report.samples import samples
from registry import Config, ConvbodyError

_TASKS = {"bbox": "Boxes", "segm": "Masks", "keypoints": "Keypoints", "proposals": "Proposals"}
_RECALLS = [step / 100 for step in range(101)]


def write_report(
    output_dir: Path | str,
    cfg: Config,
    results: Mapping[str, EvaluationResult],
    datasets: Mapping[str, CocoDataset],
    *,
    seconds: float | None = None,
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write ``output_dir/report.html`` and give its path. The page holds all it shows itself.

    Args:
        output_dir: the run's folder; ``metrics.jsonl`` in it, if any, gives the training curves.
        results: data set name -> evaluation, as ``evaluate_all`` gives; the first one makes the headline.
        datasets: the data sets that were evaluated, by name.
        seconds: wall-clock duration of the run.
        facts: further rows for the table about the run.

    Raises ConvbodyError where the folder cannot be written, and DataError where a test image cannot be read.
    """
    output_dir = Path(output_dir)
    page = _template().render(
        title=f"{cfg.MODEL.BACKBONE.CONV_BODY} on {' and '.join(results)}",
        written=datetime.now().strftime("%Y-%m-%d %H:%M"),
        headline=_headline(next(iter(results.values()))),
        training=training_charts(output_dir / "metrics.jsonl"),
        datasets=[_dataset_section(name, result, datasets[name]) for name, result in results.items()],
        facts={**_run_facts(cfg, seconds), **(facts or {})},
        config=cfg.dump(),
    )
    path = output_dir / "report.html"
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConvbodyError(f"cannot write the report: {error}") from error
    return path


def _template() -> jinja2.Template:
    folder = files(__package__)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.globals["count"] = _count
    environment.globals["style"] = folder.joinpath("style.css").read_text(encoding="utf-8")
    return environment.from_string(folder.joinpath("template.html").read_text(encoding="utf-8"))


def _headline(result: EvaluationResult) -> list[dict[str, str]]:
    """The few numbers on top: of the first task its scores, then what a user of the detector gets."""
    task = next(iter(result.metrics)).split("/")[0]
    explained = {
        "AP50": "average precision at IoU 0.50",
        "AP": "mean over IoU 0.50 to 0.95",
        "AP75": "average precision at IoU 0.75",
        "AR@100": "average recall of 100 boxes per image",
        "AR@1000": "average recall of 1000 boxes per image",
    }
    cards = [
        {"name": name, "value": f"{result.metrics[f'{task}/{name}']:.3f}", "note": note}
        for name, note in explained.items()
        if f"{task}/{name}" in result.metrics and (name.startswith("AP") or task == "proposals")
    ]
    if task != "proposals":
        point = result.operating_point
        note = f"at score {point.score:.2f}, the best F1 ({point.f1:.2f})"
        cards.append({"name": "Precision", "value": f"{point.precision:.2f}", "note": note})
        cards.append(
            {"name": "Recall", "value": f"{point.recall:.2f}", "note": "at the same score, IoU 0.50"}
        )
    return cards


def _dataset_section(name: str, result: EvaluationResult, dataset: CocoDataset) -> dict[str, Any]:
    tasks = list(dict.fromkeys(key.split("/")[0] for key in result.metrics))
    columns = list(dict.fromkeys(key.split("/")[1] for key in result.metrics))
    class_columns = [key for key in (result.per_class[0] if result.per_class else {}) if "/" in key]
    return {
        "name": name,
        "images": result.images,
        "seconds": result.seconds,
        "objects": sum(row["ground_truth"] for row in result.per_class),
        "detections": len(result.predictions),
        "point": result.operating_point,
        "curves": [_precision_recall(task, curves) for task, curves in result.curves.items()],
        "columns": columns,
        "rows": [
            {
                "name": _TASKS[task],
                "cells": [_cell(result.metrics.get(f"{task}/{column}")) for column in columns],
            }
            for task in tasks
        ],
        "class_columns": [f"{_TASKS[key.split('/')[0]]} {key.split('/')[1]}" for key in class_columns],
        "class_rows": [
            {
                "name": row["class"],
                "objects": row["ground_truth"],
                "cells": [{"text": _cell(row[key]), "share": row[key] or 0.0} for key in class_columns],
            }
            for row in result.per_class
        ],
        "samples": samples(result, dataset),
    }


def _precision_recall(task: str, curves: Mapping[str, list[float]]) -> Chart:
    lines = [
        Series(f"IoU {iou}", _RECALLS, precision, strong=iou == "0.50") for iou, precision in curves.items()
    ]
    chart = chart_of(
        f"{_TASKS[task]}: precision and recall", lines, "recall", "precision", y_range=(0.0, 1.0)
    )
    for entry, line in zip(chart.legend, lines, strict=True):
        entry["value"] = f"AP {sum(line.ys) / len(line.ys):.3f}"
    return chart


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _run_facts(cfg: Config, seconds: float | None) -> dict[str, str]:
    facts = {
        "Command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "Backbone": cfg.MODEL.BACKBONE.CONV_BODY,
        "Detector": cfg.MODEL.META_ARCHITECTURE,
        "Trained on": ", ".join(cfg.DATASETS.TRAIN) or "–",
        "Machine": _machine(),
        "Versions": ", ".join(_versions()),
    }
    if seconds is not None:
        facts["Duration"] = str(timedelta(seconds=round(seconds)))
    return facts


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {platform.system()}"
    cores = f"{os.cpu_count()} logical cores ({torch.get_num_threads()} used)"
    return f"{_processor()}, {cores}, {platform.system()}"


def _processor() -> str:
    """The processor's name: Linux tells it in /proc/cpuinfo only."""
    information = Path("/proc/cpuinfo")
    for line in information.read_text().splitlines() if information.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _versions() -> list[str]:
    found = [f"Python {platform.python_version()}"]
    for package in ("convbody", "torch", "torchvision", "timm", "pycocotools"):
        try:
            found.append(f"{package} {version(package)}")
        except (
            PackageNotFoundError
        ):  # not installed: timm is optional, and convbody may run from its source tree
            continue
    return found
