"""Training runs of the GPU check: tools/train_net.py with few iterations, in folders of their own."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rows import Rows

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = "configs/quickstart/trees.yaml"
DRAWN, DRAWN_MASKS = "configs/synthetic/faster_rcnn.yaml", "configs/synthetic/mask_rcnn.yaml"
WEIGHTS = Path("trees", "tf_efficientnet_lite0.pth")
#: float16 takes seconds an iteration on a CPU, whatever the model.
SMALL = ("INPUT.MIN_SIZE_RANGE_TRAIN", "(64, 96)", "INPUT.MAX_SIZE_TRAIN", 96)


@dataclass
class Data:
    """A folder with the trees, if they are there, and drawn pictures."""

    folder: Path
    has_trees: bool

    @staticmethod
    def make(images: int) -> Data:
        """In a temporary folder, which stays."""
        from convbody.data.files import datasets_root
        from convbody.detection.data.synthetic import make_synthetic

        folder = Path(tempfile.mkdtemp(prefix="gpu_check_data_"))
        given = datasets_root().absolute()
        if (given / WEIGHTS).exists():
            (folder / "trees").symlink_to(given / "trees")
        make_synthetic(folder / "synthetic" / "train", images)
        return Data(folder, (given / WEIGHTS).exists())


@dataclass
class Run:
    """One call of tools/train_net.py."""

    data: Data
    config: str
    options: Sequence[Any]
    output: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="gpu_check_run_")))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Begins to train; its output goes to OUTPUT_DIR/said.txt, and nothing is evaluated."""
        options = [
            "OUTPUT_DIR",
            self.output,
            "DATASETS.TEST",
            "()",
            "SOLVER.TENSORBOARD",
            False,
            *self.options,
        ]
        if self.config == QUICKSTART:
            options += ["MODEL.WEIGHT", self.data.folder / WEIGHTS]
        command = [sys.executable, "tools/train_net.py", "--config-file", self.config, *arguments]
        environment = {**os.environ, "CONVBODY_DATASETS": str(self.data.folder)}
        with (self.output / "said.txt").open("a") as said:
            return subprocess.Popen(
                [*command, *map(str, options)], cwd=ROOT, env=environment, text=True, stdout=said, stderr=said
            )

    def finish(self, process: subprocess.Popen[str]) -> None:
        """Waits for its end. Raises RuntimeError with the last lines if it failed."""
        status = process.wait()
        said = (self.output / "said.txt").read_text()
        print(said[-4000:], flush=True)
        if status:
            raise RuntimeError(f"exit status {status}: " + " / ".join(said.strip().splitlines()[-3:]))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl."""
        lines = (self.output / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def weights(self, iteration: int) -> dict[str, torch.Tensor]:
        """Those of a checkpoint."""
        path = self.output / "checkpoints" / f"iter_{iteration:07d}.pth"
        model: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)["model"]
        return model


def train(rows: Rows, name: str, data: Data, config: str, dtype: str, *, device: str, rehearse: bool) -> None:
    """Trains for 60 iterations; whether the losses are finite and fall, and how long an iteration takes."""
    iterations, period = (3 if dtype == "float16" else 6, 1) if rehearse else (60, 5)
    options = [
        "MODEL.DEVICE",
        device,
        "DTYPE",
        dtype,
        "SOLVER.MAX_ITER",
        iterations,
        "SOLVER.LOG_PERIOD",
        period,
    ]
    options += [*SMALL, "SOLVER.WARMUP_ITERS", 0] if rehearse else ["DATALOADER.NUM_WORKERS", 2]
    instead = ""
    if config == QUICKSTART and not data.has_trees:
        config, instead = DRAWN, "on drawn pictures, because the trees are not there; "
    run = Run(data, config, options)
    run.finish(run.start())
    losses = [row["loss"] for row in run.metrics]
    terms = [value for row in run.metrics for value in row["losses"].values()]
    few = max(1, len(losses) // 4)
    first, last = sum(losses[:few]) / few, sum(losses[-few:]) / few
    finite = len(losses) == iterations // period and all(map(math.isfinite, terms))
    rows.add(f"{name}: losses are finite", finite, len(losses), "rows of metrics", instead)
    # A handful of iterations says nothing: a rehearsal shows the numbers alone.
    rows.add(
        f"{name}: losses fall",
        None if rehearse else last < first,
        [round(first, 4), round(last, 4)],
        "mean of the first and of the last quarter",
        instead + " ".join(f"{loss:.3f}" for loss in losses),
    )
    seconds = sorted(row["time"] for row in run.metrics[1:])
    rows.add(
        f"{name}: time of an iteration", None, seconds[len(seconds) // 2], "s", "median, beside other checks"
    )
    rows.add(f"{name}: peak memory", None, round(run.metrics[-1]["memory"]), "MiB")


def resume_after_kill(rows: Rows, data: Data, *, device: str, rehearse: bool) -> None:
    """A run that is killed and resumed beside two that are not: how far its weights are from theirs."""
    iterations, period = (6, 2) if rehearse else (40, 10)
    options = ["MODEL.DEVICE", device, "SOLVER.MAX_ITER", iterations, "SOLVER.CHECKPOINT_PERIOD", period]
    options += ["SOLVER.LOG_PERIOD", 1, "DATALOADER.NUM_WORKERS", 0, "SOLVER.WARMUP_ITERS", 0]
    options += ["SOLVER.IMS_PER_BATCH", 2] if rehearse else []
    killed, whole, again = (Run(data, DRAWN_MASKS, options) for _ in range(3))
    others = [(run, run.start()) for run in ([whole] if rehearse else [whole, again])]
    process = killed.start()
    log = killed.output / "metrics.jsonl"
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) <= period):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    ended = process.wait()
    done = len(log.read_text().splitlines())
    killed.finish(killed.start("--resume"))
    for run, other in others:
        run.finish(other)
    resumed = "resumed" in (killed.output / "said.txt").read_text()
    rows.add(
        "a killed run resumes", ended == -signal.SIGKILL and resumed, done, "iterations when it was killed"
    )
    own, wanted = killed.weights(iterations), whole.weights(iterations)
    same = all(torch.equal(own[name], wanted[name]) for name in wanted) and own.keys() == wanted.keys()
    far = distance(own, wanted)
    if device == "cpu" or same:
        rows.add("a resumed run ends with the same bits", same, far, "relative distance of the weights")
        return
    noise = distance(again.weights(iterations), wanted)
    detail = f"that of two runs that were not killed: {noise:.3g}; gradients of RoIAlign add up in any order"
    name = "a resumed run ends as near as another run"
    rows.add(name, far <= 3 * noise, far, "relative distance of the weights", detail)


def distance(own: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """||own - other|| / ||other|| over all floating weights."""
    floating = [name for name, value in other.items() if value.is_floating_point()]
    differences = sum(float((own[name].double() - other[name].double()).square().sum()) for name in floating)
    return math.sqrt(differences / sum(float(other[name].double().square().sum()) for name in floating))
