"""All that a run is made of at one iteration: taken from, and given back to, its parts."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import convbody
from convbody.training import distributed, parallel
from convbody.training.checkpoint import CheckpointError, MisfitError
from convbody.training.ema import ModelEma
from convbody.training.finite import first_nonfinite
from convbody.training.optimizer_state import check_optimizer, load_optimizer
from convbody.training.random_state import random_state, seed_everything, set_random_state
from convbody.training.resume import check_weights, set_random_states
from convbody.training.schema import TrainingCheckpoint
from registry import Config

logger = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """The parts of a run that change. The schedule and the sampler follow from the iteration alone."""

    cfg: Config
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: ModelEma | None
    #: What the task wants said of the weights in every file that holds them.
    notes: Mapping[str, Any] = field(default_factory=dict)
    kind = TrainingCheckpoint

    @property
    def evaluated(self) -> nn.Module:
        """The module whose quality counts: the averaged one where there is an average."""
        return self.ema.module if self.ema else self.model

    def seed(self, iteration: int) -> None:
        """Seed this process: differently from the others, so that no two draw the same dropout masks."""
        seed_everything(self.cfg.SEED + 1000 * iteration + distributed.rank())

    def capture(self, iteration: int) -> dict[str, Any]:
        """A checkpoint's payload after ``iteration`` iterations. Every process must call it.

        Raises:
            CheckpointError: a weight is not finite, so that nothing good would come of resuming.
        """
        distributed.broadcast_buffers(self.model)
        if self.ema:
            distributed.broadcast_buffers(self.ema.module)
        if culprit := first_nonfinite(self.model):
            raise CheckpointError(
                f"not saved: {culprit} is not finite after iteration {iteration}; --resume goes on from the "
                f"checkpoint before"
            )
        return {
            **self.notes,
            "iteration": iteration,
            "model": parallel.whole(self.model.state_dict()),
            "ema": parallel.whole(self.ema.module.state_dict()) if self.ema else None,
            "optimizer": parallel.whole(self.optimizer.state_dict()),
            "optimizer_name": type(self.optimizer).__name__,
            "scaler": self.scaler.state_dict(),
            "random": distributed.all_gather_object(random_state()),
            "config": self.cfg.dump(),
            "versions": {
                "convbody": convbody.__version__,
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "numpy": np.__version__,
            },
        }

    def check(self, payload: dict[str, Any], path: Path) -> None:
        """Raise MisfitError for a payload, read from ``path``, that is of another model or optimiser."""
        check_weights(self.model, payload["model"], path)
        if self.ema and payload["ema"] is not None:
            check_weights(self.ema.module, payload["ema"], path)
        if payload["optimizer_name"] != type(self.optimizer).__name__:
            raise MisfitError(
                f"{path} holds the state of {payload['optimizer_name']} and cannot be resumed with "
                f"SOLVER.OPTIMIZER {self.cfg.SOLVER.OPTIMIZER}; set it back, or start anew with "
                f"MODEL.WEIGHT {path}"
            )
        check_optimizer(self.optimizer, payload["optimizer"], path)

    def restore(self, payload: dict[str, Any], path: Path) -> int:
        """Continue from a payload that ``check`` accepts; gives its iteration. Every process must call it."""
        _load_model(self.model, payload["model"])
        load_optimizer(self.optimizer, payload["optimizer"])
        if payload["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(payload["scaler"])
        if self.ema:
            if payload["ema"] is None and distributed.is_main():
                logger.warning("%s has no average of weights: it starts from the weights", path)
            _load_model(self.ema.module, payload["ema"] or payload["model"])
        set_random_states(self, payload, path)
        return int(payload["iteration"])


class IterationStart:
    """What a forward pass changes, buffers and random numbers, kept to be put back if it fails."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        self._random = random_state()

    @torch.no_grad()
    def put_back(self) -> None:
        """Back to the state at construction."""
        for buffer, before in self._buffers:
            buffer.copy_(before)
        set_random_state(self._random)


def _load_model(model: nn.Module, state: dict[str, Tensor]) -> None:
    here = model.state_dict()
    shares = copy(state)
    shares.update((key, parallel.share(value, here[key])) for key, value in state.items())
    model.load_state_dict(shares)
