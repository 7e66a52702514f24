"""The evaluations of a run: their results are recorded, and the best weights kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from convbody.training import distributed, parallel
from convbody.training.checkpoint import CheckpointFolder, write_checkpoint
from convbody.training.metrics import MetricsLog
from convbody.training.random_state import untouched_random_state
from convbody.training.state import TrainingState
from registry import ConfigError

Evaluate = Callable[[nn.Module, int], dict[str, float]]
logger = logging.getLogger(__name__)


@dataclass
class Assessment:
    """Evaluates, records the result, and keeps the best weights."""

    state: TrainingState
    checkpoints: CheckpointFolder
    evaluate: Evaluate
    statistics: Callable[[nn.Module, int], AbstractContextManager[None]]
    log: MetricsLog

    def __call__(self, iteration: int) -> None:
        module = self.state.evaluated
        distributed.broadcast_buffers(module)
        module.eval()
        with untouched_random_state(), torch.no_grad(), self.statistics(module, iteration):
            self._evaluate(module, iteration)
        self.state.model.train()

    def _evaluate(self, module: nn.Module, iteration: int) -> None:
        with parallel.assembled(module):
            metrics = self.evaluate(module, iteration)
        name = self.state.cfg.SOLVER.BEST_METRIC or next(iter(metrics), "")
        if metrics and name not in metrics:
            raise ConfigError(
                f"the evaluation gives no such metric, but {', '.join(metrics)}",
                "SOLVER.BEST_METRIC", self.state.cfg,
            )  # fmt: skip
        earlier = [old.get(name, -math.inf) for old in self.log.evaluations.values()]
        score = metrics.get(name, -math.inf)
        if score > max(earlier, default=-math.inf):
            weights = parallel.whole(module.state_dict())
            best = {"model": weights, "iteration": iteration, "metrics": metrics}
            said = {**self.state.notes, "config": self.state.cfg.dump()}
            distributed.on_main(lambda: write_checkpoint({**best, **said}, self.checkpoints.best))
            logger.info("best so far: %s %.4f at iteration %d", name, score, iteration)
        # After best.pth: a row here means that all that follows from it is on disk.
        self.log.add({"iteration": iteration, "eval": metrics})
