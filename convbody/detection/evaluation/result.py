"""What an evaluation leaves behind: numbers, curves and detections, in memory and as JSON files."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convbody.detection.evaluation.matching import OperatingPoint
from convbody.detection.lettering import drawable
from convbody.training.output import writing
from registry import ConvbodyError


@dataclass(frozen=True)
class EvaluationResult:
    """The evaluation of one data set. Equal on all ranks. All scores are fractions of 1."""

    dataset: str
    """The data set's name in the catalog."""
    metrics: dict[str, float]
    """Flat: "bbox/AP", "bbox/AP50", ..., "segm/AP", "keypoints/AP", or "proposals/AR@100" with RPN_ONLY."""
    per_class: list[dict[str, Any]]
    """One row per class: "class", "ground_truth" (objects to find), and of every task "<task>/AP" and
    "<task>/AP50", None for a class without ground truth."""
    curves: dict[str, dict[str, list[float]]]
    """Task -> IoU ("0.50", "0.75") -> precision at the recalls 0.00, 0.01, ..., 1.00."""
    operating_point: OperatingPoint
    """The score threshold with the best F1 at IoU 0.50."""
    image_f1: dict[str, float]
    """Image id, as text, -> F1 at that threshold, in the order of the data set."""
    images: int
    seconds: float
    """Wall-clock time of the detector over the whole data set, loading of the images included."""
    predictions: list[dict[str, Any]]
    """Detections in COCO's results format, in the order of the data set, with the ids of its file."""
    skipped: list[str] = field(default_factory=list)
    """What was wrong with each image that could not be read; they count for nothing."""

    def save(self, folder: Path) -> None:
        """Write ``metrics.json`` (all but the detections) and ``predictions.json`` (COCO results format).

        Raises OutputError where they cannot be written.
        """
        numbers = dataclasses.asdict(self)
        predictions = numbers.pop("predictions")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "metrics.json").write_text(json.dumps(numbers, indent=1, allow_nan=False) + "\n")
            (folder / "predictions.json").write_text(json.dumps(predictions, allow_nan=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> EvaluationResult:
        """Read what ``save`` wrote. Raises ConvbodyError when it is not there or not readable."""
        try:
            numbers = json.loads((folder / "metrics.json").read_text())
            predictions = json.loads((folder / "predictions.json").read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ConvbodyError(
                f"no evaluation to read in {folder}: {error}; run tools/test_net.py"
            ) from error
        numbers["operating_point"] = OperatingPoint(**numbers["operating_point"])
        return cls(**numbers, predictions=predictions)

    def table(self) -> str:
        """The metrics, and a row per class, as text for a terminal or a log."""
        tasks = list(dict.fromkeys(name.split("/")[0] for name in self.metrics))
        less = f", {len(self.skipped)} more could not be read" if self.skipped else ""
        lines = [f"{self.dataset}: {self.images} images in {self.seconds:.1f} s{less}"]
        for task in tasks:
            values = {n.split("/")[1]: v for n, v in self.metrics.items() if n.startswith(f"{task}/")}
            lines.append(
                f"  {task:<10} " + "  ".join(f"{name} {value:.3f}" for name, value in values.items())
            )
        columns = [name for name in (self.per_class[0] if self.per_class else {}) if "/" in name]
        if columns:
            names = [drawable(row["class"]) for row in self.per_class]
            width = max(len("class"), *map(len, names))
            lines.append(
                f"  {'class':<{width}}  {'objects':>7}" + "".join(f"  {name:>14}" for name in columns)
            )
            for row, name in zip(self.per_class, names, strict=True):
                cells = "".join(f"  {_cell(row[name]):>14}" for name in columns)
                lines.append(f"  {name:<{width}}  {row['ground_truth']:>7}" + cells)
        return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
