"""What a run measures: ``metrics.jsonl`` and TensorBoard, and the line that says how far it is."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from convbody.training import distributed
from convbody.training.output import writing
from registry import ConfigError
from registry.errors import in_one_line

if TYPE_CHECKING:
    from convbody.training.tensorboard import Board

logger = logging.getLogger(__name__)


class MetricsLog:
    """``metrics.jsonl`` (one JSON object a line) and, if asked for, ``tensorboard/`` in a run's folder.

    Opened at iteration ``start``: rows after it, left by a run that was killed later than its last
    checkpoint, are dropped, because those iterations come again. Only rank 0 writes; every rank knows
    ``evaluations``.
    """

    def __init__(self, folder: Path, start: int, tensorboard: bool) -> None:
        self._path = folder / "metrics.jsonl"
        rows = _rows_until(self._path, start) if distributed.is_main() and start else []
        #: Results by iteration, in order.
        self.evaluations: dict[int, dict[str, float]] = distributed.broadcast_object(
            {row["iteration"]: row["eval"] for row in rows if "eval" in row}
        )
        self._board: Any = None
        distributed.on_main(lambda: self._begin(rows))
        if tensorboard and distributed.is_main():
            self._board = board_type()(folder / "tensorboard", purge_step=start + 1 if start else None)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._board is not None:
            self._board.close()

    def add(self, row: dict[str, Any]) -> None:
        """Append one row; numbers go to TensorBoard under their (nested) names. All processes call it alike.

        Raises:
            OutputError: the file cannot be written.
        """
        if "eval" in row:
            self.evaluations[row["iteration"]] = row["eval"]
        distributed.on_main(lambda: self._append(row))
        if self._board is not None:
            self._board.add(
                {
                    f"{name}/{label}" if label else name: number
                    for name, value in row.items()
                    for label, number in (value.items() if isinstance(value, dict) else [("", value)])
                },
                row["iteration"],
            )

    def _begin(self, rows: list[dict[str, Any]]) -> None:
        partial = self._path.with_name(f".{self._path.name}.partial")
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
            os.replace(partial, self._path)

    def _append(self, row: dict[str, Any]) -> None:
        with writing(self._path), open(self._path, "a") as file:
            file.write(json.dumps(row) + "\n")


def board_type() -> type[Board]:
    """What writes for TensorBoard. Raises ConfigError where TensorBoard cannot be loaded."""
    try:
        from convbody.training.tensorboard import Board  # slow to import, so only where it is used
    except Exception as error:  # versions that do not fit each other fail in many ways
        raise ConfigError(
            f"TensorBoard cannot be loaded ({in_one_line(error)}); pip install tensorboard, or set False",
            "SOLVER.TENSORBOARD",
        ) from error
    return Board


def _rows_until(path: Path, last: int) -> list[dict[str, Any]]:
    """The rows up to iteration ``last``; a line that a kill cut short is not a row."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["iteration"] <= last:
            rows.append(row)
    return rows


class Progress:
    """Means over the iterations since the last row: losses, seconds, and the share of them spent on data."""

    def __init__(self, max_iter: int, images_per_iteration: int) -> None:
        self._max_iter = max_iter
        self._images = images_per_iteration
        self.restart_clock()

    def restart_clock(self) -> None:
        """Forget what was gathered; what happened before (an evaluation, say) counts for nothing."""
        self._losses: dict[str, float] = defaultdict(float)
        self._data_seconds = 0.0
        self._iterations = 0
        self._since = time.perf_counter()

    def add(self, losses: dict[str, float], data_seconds: float) -> None:
        """Count one iteration."""
        for name, value in losses.items():
            self._losses[name] += value
        self._data_seconds += data_seconds
        self._iterations += 1

    def report(self, iteration: int, lr: float) -> dict[str, Any]:
        """The row at ``iteration``, logged as a line too; losses are means over processes: all must call.

        ``time`` and ``data_time`` (waiting for the batch) are seconds an iteration, ``data_share`` is the
        latter over the former, ``memory`` is the peak in MiB of this process (of the GPU where there is one).
        """
        count = self._iterations
        seconds = (time.perf_counter() - self._since) / count
        ranks = distributed.all_gather_object({name: total / count for name, total in self._losses.items()})
        losses = {name: sum(rank[name] for rank in ranks) / len(ranks) for name in ranks[0]}
        row: dict[str, Any] = {
            "iteration": iteration,
            "lr": lr,
            "loss": sum(losses.values()),
            "losses": losses,
            "time": seconds,
            "data_time": self._data_seconds / count,
            "data_share": self._data_seconds / count / seconds,
            "images/s": self._images / seconds,
            "memory": _peak_memory(),
        }
        terms = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        logger.info(
            "iter %d/%d  eta %s  loss %.4g (%s)  lr %.3g  %.1f images/s  "
            "waiting for data %.0f%%  memory %.0f MiB",
            iteration, self._max_iter, timedelta(seconds=round(seconds * (self._max_iter - iteration))),
            row["loss"], terms, lr, row["images/s"], 100 * row["data_share"], row["memory"],
        )  # fmt: skip
        self.restart_clock()
        return row


def _peak_memory() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
