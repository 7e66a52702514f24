"""What first weights are worth: a detector from scratch, and from a body pre-trained by classification.

    python tools/prepare_data.py fashion-mnist && python tools/prepare_data.py synthetic
    python benchmarks/pretraining.py [--iterations 80] [--seeds 2] [--output DIR] [KEY VALUE ...]

The body of configs/synthetic/faster_rcnn.yaml is trained on Fashion-MNIST
(configs/classification/fashion_mnist_R_18.yaml), once. Then detectors are trained for as many iterations with
it and without, all else equal, once for each seed, and evaluated. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision

from convbody import cli
from convbody.classification.train import BODY_FILE, train_classifier
from convbody.detection.train import train_detector
from registry import ConvbodyError, load_cfg

ROOT = Path(__file__).resolve().parents[1]
CLASSIFIER = ROOT / "configs" / "classification" / "fashion_mnist_R_18.yaml"
DETECTOR = ROOT / "configs" / "synthetic" / "faster_rcnn.yaml"
METRICS = ("bbox/AP", "bbox/AP50")


def pretrained_body(folder: Path, opts: Sequence[Any] = ()) -> Path:
    """The weights of the body, trained into ``folder`` unless they are there."""
    body = folder / BODY_FILE
    if not body.is_file():
        train_classifier(load_cfg(CLASSIFIER, [*opts, "OUTPUT_DIR", str(folder)]), resume=True)
    if not body.is_file():
        raise ConvbodyError("stopped before the body was trained; the same command goes on from there")
    return body


def detector_metrics(folder: Path, weight: str, seed: int, opts: Sequence[Any]) -> dict[str, float]:
    """Train and evaluate one detector in ``folder``."""
    cfg = load_cfg(DETECTOR, [*opts, "OUTPUT_DIR", str(folder), "SEED", seed, "MODEL.WEIGHT", weight])
    return train_detector(cfg, resume=True).metrics


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """A row for each start, with the metrics of every seed and their mean."""
    rows = [
        "| start | " + " | ".join(f"{name} (mean; by seed)" for name in METRICS) + " |",
        "| --- | --- | --- |",
    ]
    for start, runs in results.items():
        cells = []
        for name in METRICS:
            values = [run[name] for run in runs]
            cells.append(f"{sum(values) / len(values):.3f}; {', '.join(f'{value:.3f}' for value in values)}")
        rows.append(f"| {start} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=80, help="of each detector (80)")
    parser.add_argument("--seeds", type=int, default=2, help="detectors of each kind (2)")
    parser.add_argument("--output", type=Path, default=Path("runs/pretraining"), help="(runs/pretraining)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to change, of both tasks")
    args = parser.parse_args()
    body = pretrained_body(args.output / "body", args.opts)
    opts = [*args.opts, "SOLVER.MAX_ITER", args.iterations]
    results: dict[str, list[dict[str, float]]] = {}
    for start, weight in (("random weights", ""), ("pre-trained", str(body))):
        folder = args.output / start.replace(" ", "_")
        results[start] = [
            detector_metrics(folder / str(seed), weight, seed, opts) for seed in range(args.seeds)
        ]
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    print(f"{args.iterations} iterations, {torch.get_num_threads()} thread(s); {platform.machine()}")
    print(f"Python {platform.python_version()}, {versions}")
    print(table(results))


if __name__ == "__main__":
    cli.run(main)
