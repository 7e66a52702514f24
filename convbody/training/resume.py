"""Where a run begins: at its start, or at the newest of its checkpoints that can be used."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from convbody.training import distributed
from convbody.training.checkpoint import (
    CheckpointError,
    CheckpointFolder,
    Found,
    MisfitError,
    read_checkpoint,
)
from convbody.training.random_state import set_random_state
from convbody.training.schema import Resumable, config_keys
from registry import Config

#: Keys that may differ between a run and its continuation without a word.
_FREE_KEYS = {"OUTPUT_DIR", "PATHS_CATALOG", "AMP_VERBOSE", "SOLVER.LOG_PERIOD", "SOLVER.TENSORBOARD"} | {
    "SOLVER.PARALLEL",
    "MODEL.BACKBONE.CHECKPOINT_STAGES",
}
logger = logging.getLogger(__name__)


class Run(Protocol):
    """What changes in a run, and can be put into the state of a checkpoint."""

    cfg: Config

    @property
    def kind(self) -> type[Resumable]:
        """What its checkpoints hold."""

    def seed(self, iteration: int) -> None:
        """Seed this process, differently from the others."""

    def check(self, payload: dict[str, Any], path: Path) -> None:
        """Raise MisfitError for a payload, read from ``path``, that ``restore`` cannot take."""

    def restore(self, payload: dict[str, Any], path: Path) -> int:
        """Continue from a payload; returns its iteration. Every process must call it."""


def begin(run: Run, checkpoints: CheckpointFolder, resume: bool) -> int:
    """Put ``run`` where it begins; gives the iteration. Each process of a distributed run calls this alike.

    With ``resume`` the newest checkpoint that can be used counts. Newer ones are reported and set aside as
    ``*.pth.damaged``. The config at hand counts; what differs from the checkpoint's is logged.

    Raises:
        CheckpointError: there are checkpoints, and ``resume`` is not set, or none of them can be used.
    """
    found: list[Found] = []

    def look() -> Path | None:
        found.extend(_find(run, checkpoints) if resume else _refuse_earlier(checkpoints))
        return found[0].path if found else None

    # The main process looks, which alone is sure to see the folder; the others read what it has found.
    path = distributed.on_main(look)
    if path is None:
        if resume:
            logger.info("nothing to resume in %s: starting at iteration 0", checkpoints.folder)
        run.seed(0)
        return 0
    payload = found[0].payload if found else read_checkpoint(path, run.kind)
    iteration = run.restore(payload, path)
    if distributed.is_main() and (changes := config_changes(payload["config"], run.cfg.dump())):
        logger.warning(
            "the config is not the one of %s, so this run differs from an uninterrupted one: %s",
            path.name, "; ".join(changes),
        )  # fmt: skip
    logger.info("resumed %s at iteration %d", path, iteration)
    return iteration


def check_begin(run: Run, checkpoints: CheckpointFolder, resume: bool) -> None:
    """Raise the CheckpointError that ``begin`` would raise; on the main process, and nothing is changed."""
    if resume:
        checkpoints.newest(run.kind, run.check)
    else:
        _refuse_earlier(checkpoints)


def config_changes(old: str, new: str) -> list[str]:
    """The keys, but for those of no consequence, that two dumped configs differ in: "KEY was OLD, is NEW"."""
    before, after = config_keys(old), config_keys(new)
    keys = sorted((before.keys() | after.keys()) - _FREE_KEYS)
    return [
        f"{key} was {before.get(key, 'absent')}, is {after.get(key, 'absent')}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def check_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Raise MisfitError unless ``state``, of the file ``path``, has the weights of ``model``."""
    here = model.state_dict()
    odd = [key for key, value in here.items() if key not in state or not _is_alike(state[key], value)]
    odd += [key for key in state if key not in here]
    if odd:
        raise MisfitError(
            f"{path} is of another model: {len(odd)} tensors differ, the first is {odd[0]}; "
            f"resume with the config of the run, or start anew in another OUTPUT_DIR"
        )


def set_random_states(run: Run, payload: dict[str, Any], path: Path) -> None:
    """Give this process the random state it had in ``payload``; a fresh one where it had none."""
    states = payload["random"]
    if len(states) == distributed.world_size():
        set_random_state(states[distributed.rank()])
        return
    if distributed.is_main():
        logger.warning(
            "%s was written by %d processes and goes on with %d: same images, other random numbers",
            path, len(states), distributed.world_size(),
        )  # fmt: skip
    run.seed(payload["iteration"])


def _refuse_earlier(checkpoints: CheckpointFolder) -> list[Found]:
    if files := checkpoints.files():
        raise CheckpointError(
            f"{files[-1]} is of an earlier run; go on with --resume, or set another OUTPUT_DIR, or remove it"
        )
    return []


def _find(run: Run, checkpoints: CheckpointFolder) -> list[Found]:
    found = checkpoints.newest(run.kind, run.check)
    if found is None:
        return []
    for path, error in found.passed_over:
        logger.warning("%s; using %s instead", error, found.path)
        with suppress(OSError):
            os.replace(path, path.with_name(f"{path.name}.damaged"))
    return [found]


def _is_alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype) == (other.shape, other.dtype)
