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
import yaml
from torch import Tensor, nn

import convbody
from convbody.training import distributed, parallel
from convbody.training.checkpoint import CheckpointError
from convbody.training.ema import ModelEma
from convbody.training.finite import first_nonfinite
from convbody.training.random_state import random_state, seed_everything, set_random_state
from registry import Config

logger = logging.getLogger(__name__)

#: Keys that may differ between a run and its continuation without a word.
_FREE_KEYS = {"OUTPUT_DIR", "PATHS_CATALOG", "AMP_VERBOSE", "SOLVER.LOG_PERIOD", "SOLVER.TENSORBOARD"} | {
    "SOLVER.PARALLEL",
    "MODEL.BACKBONE.CHECKPOINT_STAGES",
}


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

    def restore(self, payload: dict[str, Any], path: Path) -> int:
        """Continue from a payload read from ``path``; returns its iteration. Every process must call it.

        Raises:
            CheckpointError: the checkpoint is of another model, or trains other parameters.
        """
        _load_model(self.model, payload["model"], path)
        self._load_optimizer(payload["optimizer"], payload["optimizer_name"], path)
        if payload["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(payload["scaler"])
        if self.ema:
            if payload["ema"] is None:
                logger.warning("%s has no average of weights: it starts from the weights", path)
            _load_model(self.ema.module, payload["ema"] or payload["model"], path)
        iteration = int(payload["iteration"])
        states = payload["random"]
        if len(states) == distributed.world_size():
            set_random_state(states[distributed.rank()])
        else:
            logger.warning(
                "%s was written by %d processes and goes on with %d: same images, other random numbers",
                path, len(states), distributed.world_size(),
            )  # fmt: skip
            self.seed(iteration)
        if changes := config_changes(payload["config"], self.cfg.dump()):
            logger.warning(
                "the config is not the one of %s, so this run differs from an uninterrupted one: %s",
                path.name, "; ".join(changes),
            )  # fmt: skip
        return iteration

    def _load_optimizer(self, state: dict[str, Any], name: str, path: Path) -> None:
        """Take over momenta, but keep the hyperparameters of the config at hand."""
        if name != type(self.optimizer).__name__:
            raise CheckpointError(
                f"{path} holds the state of {name} and cannot be resumed with SOLVER.OPTIMIZER "
                f"{self.cfg.SOLVER.OPTIMIZER}; set it back, or start anew with MODEL.WEIGHT {path}"
            )
        groups = [dict(group) for group in self.optimizer.param_groups]
        saved = [group.get("names") for group in state["param_groups"]]
        wanted = [group["names"] for group in groups]
        if saved != wanted:
            moved = sorted(_flat(saved) ^ _flat(wanted)) or ["the same ones in other groups"]
            raise CheckpointError(
                f"{path} cannot be resumed: it trains other parameters than this config, such as {moved[0]} "
                f"({len(moved)} in all); resume with its own config, or start anew with MODEL.WEIGHT {path}"
            )
        parameters = [parameter for group in groups for parameter in group["params"]]
        shares = {
            number: {key: parallel.share(value, parameters[number]) for key, value in entries.items()}
            for number, entries in state["state"].items()
        }
        self.optimizer.load_state_dict({**state, "state": shares})
        for group, fresh in zip(self.optimizer.param_groups, groups, strict=True):
            group.update({key: value for key, value in fresh.items() if key != "params"})


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


def config_changes(old: str, new: str) -> list[str]:
    """The keys, but for those of no consequence, that two dumped configs differ in: "KEY was OLD, is NEW"."""
    before, after = (_flatten(yaml.safe_load(text)) for text in (old, new))
    keys = sorted((before.keys() | after.keys()) - _FREE_KEYS)
    return [
        f"{key} was {before.get(key, 'absent')}, is {after.get(key, 'absent')}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _flat(groups: list[Any]) -> set[str]:
    return {name for names in groups for name in names or ()}


def _load_model(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    here = model.state_dict()
    odd = [key for key in here if key not in state or state[key].shape != here[key].shape]
    odd += [key for key in state if key not in here]
    if odd:
        raise CheckpointError(
            f"{path} is of another model: {len(odd)} tensors differ, the first is {odd[0]}; "
            f"resume with the config of the run, or start anew in another OUTPUT_DIR"
        )
    shares = copy(state)
    shares.update((key, parallel.share(value, here[key])) for key, value in state.items())
    model.load_state_dict(shares)
