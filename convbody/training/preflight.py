"""What every task's preflight is made of: settings, a training step, a checkpoint, and room for it."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from backbones.weights.read import Names, notes_of
from convbody.training import distributed
from convbody.training.checkpoint import (
    CheckpointError,
    CheckpointFolder,
    peek,
    read_checkpoint,
    write_checkpoint,
)
from convbody.training.findings import Findings
from convbody.training.resume import Run, check_begin
from convbody.training.schedule import Stages, build_optimizer
from convbody.training.settings import SETTINGS
from convbody.training.state import IterationStart, TrainingState
from convbody.training.step import autocast_dtype
from registry import Config, ConfigError, ConvbodyError

#: Tensors of a parameter's size that an optimiser keeps for it, once it has made a step.
_KEPT = {torch.optim.SGD: 1, torch.optim.Adam: 2, torch.optim.AdamW: 2}
_MIB = 2**20
logger = logging.getLogger(__name__)


def check_settings(cfg: Config, findings: Findings) -> None:
    """Each setting that can be judged by itself, and whether OUTPUT_DIR can be written."""
    for check in SETTINGS:
        findings.attempt(check, cfg)
    if distributed.is_main():
        findings.attempt(_check_output, cfg)


def _check_output(cfg: Config) -> None:
    with temporary_folder(Path(cfg.OUTPUT_DIR)):
        pass


def check_best_metric(cfg: Config, given: Sequence[str]) -> None:
    """Raises ConfigError where SOLVER.BEST_METRIC is none of the metrics that the evaluation gives.

    Without any evaluation the key has no effect.
    """
    if cfg.SOLVER.BEST_METRIC and given and cfg.SOLVER.BEST_METRIC not in given:
        raise ConfigError(
            f"the evaluation gives no such metric, but {', '.join(given)}", "SOLVER.BEST_METRIC", cfg
        )


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """What happens inside leaves no trace in buffers, gradients and modes of ``model``, nor in generators."""
    start, modes = IterationStart(model), [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        start.put_back()
        for module, training in modes:
            module.training = training
        for parameter in model.parameters():
            parameter.grad = None


def rehearse_step(
    cfg: Config, model: nn.Module, losses: Callable[[nn.Module, Any], Mapping[str, Tensor]], batch: Any
) -> None:
    """The losses of a batch, and their gradients, as an iteration computes them.

    Raises:
        ConvbodyError: a loss is not finite, or batch norm has nothing to norm.
    """
    model.train()
    device, dtype = next(model.parameters()).device, autocast_dtype(cfg)
    try:
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            terms = losses(model, batch)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConvbodyError(
            f"a batch norm gets one value per channel from the smallest images ({error}); train on larger "
            "images or on more in a batch (SOLVER.IMS_PER_BATCH), or choose another norm"
        ) from error
    for name, term in terms.items():
        if not bool(torch.isfinite(term.detach()).all()):
            raise ConvbodyError(f"{name} is {term.item()} with the weights that the run starts from")
    torch.stack([term.float() for term in terms.values()]).sum().backward()


def initial_state(cfg: Config, model: nn.Module, stages: Stages, notes: Mapping[str, Any]) -> TrainingState:
    """A run's state before its first iteration, of a model that is in one piece."""
    device = next(model.parameters()).device
    scaler = torch.amp.GradScaler(device.type, enabled=autocast_dtype(cfg) is torch.float16)
    return TrainingState(cfg, model, build_optimizer(cfg, model, stages), scaler, None, notes)


def notes_to_resume(output_dir: Path, resume: bool) -> tuple[str, Mapping[str, Names]]:
    """The newest checkpoint of the run to go on with, and its lists of names; called on all ranks.

    Both are empty where there is none, or nothing is resumed.
    """
    found: tuple[str, Mapping[str, Names]] = ("", {})
    if resume and distributed.is_main():
        for path in reversed(CheckpointFolder(output_dir / "checkpoints").files()):
            if notes := notes_of(peek(path)):
                found = str(path), notes
                break
    return distributed.broadcast_object(found)


class SavedRun(Run, Protocol):
    """A run that can be saved."""

    def capture(self, iteration: int) -> dict[str, Any]:
        """A checkpoint's payload after ``iteration`` iterations. Every process must call it."""


def rehearse_saving(
    findings: Findings, run: SavedRun | None, growth: int, folder: Path, resume: bool
) -> None:
    """Writes and reads a checkpoint of ``run`` below ``folder``; called on all ranks.

    ``growth`` is by how many bytes later checkpoints are larger. Those that are in the way of a new run, or
    that cannot be resumed, are findings.
    """
    if not is_ready(run):
        return
    assert run is not None
    payload = findings.attempt(run.capture, 0)
    if payload is None or not distributed.is_main():
        return
    findings.attempt(check_begin, run, CheckpointFolder(folder / "checkpoints"), resume)
    with findings.rehearsing("writing a checkpoint"):
        rehearse_checkpoint(payload, folder, growth)


def rehearse_checkpoint(payload: Mapping[str, Any], folder: Path, growth: int) -> None:
    """Writes a checkpoint below ``folder``, reads it, and takes it away again.

    ``growth`` is by how many bytes a later one is larger.

    Raises:
        CheckpointError: it cannot be written or read, or a later one would not fit.
    """
    with temporary_folder(folder) as trial:
        path = trial / "trial.pth"
        write_checkpoint(payload, path)
        if read_checkpoint(path)["model"].keys() != payload["model"].keys():
            raise CheckpointError(f"a checkpoint written into {folder} is another one when it is read")
        size = path.stat().st_size
    needed = size + growth
    free = shutil.disk_usage(_existing(folder)).free
    if free < needed:
        raise CheckpointError(
            f"a checkpoint takes about {needed / _MIB:,.0f} MiB, and OUTPUT_DIR {folder} has room for "
            f"{free / _MIB:,.0f} MiB; make room or set OUTPUT_DIR elsewhere"
        )
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise CheckpointError(
            f"a checkpoint takes about {needed / _MIB:,.0f} MiB, and this process may write files of "
            f"{limit / _MIB:,.0f} MiB; raise the limit (ulimit -f)"
        )


def optimizer_growth(*optimizers: torch.optim.Optimizer) -> int:
    """Bytes of what optimisers keep once they have made a step."""
    return sum(
        _KEPT.get(type(optimizer), 2) * parameter.numel() * parameter.element_size()
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    )


def state_growth(state: TrainingState) -> int:
    """Bytes that a checkpoint of a training has after some iterations, beyond one before the first."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in state.model.state_dict().values())
    return optimizer_growth(state.optimizer) + (weights if state.cfg.SOLVER.EMA.ENABLED else 0)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder below ``parent`` that is gone afterwards, as are those above it that were made for it.

    Raises:
        ConvbodyError: it cannot be made.
    """
    existing = _existing(parent)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        trial = Path(tempfile.mkdtemp(prefix=".preflight-", dir=parent))
    except OSError as error:
        raise ConvbodyError(f"OUTPUT_DIR {parent} cannot be written: {error.strerror}") from error
    try:
        yield trial
    finally:
        shutil.rmtree(trial, ignore_errors=True)
        made = parent
        while made != existing:
            with suppress(OSError):  # something else is in it by now
                os.rmdir(made)
            made = made.parent


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next((each for each in (folder, *folder.parents) if each.is_dir()), Path())


def in_columns(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of rows that have the same columns, under their names, as text."""
    names = list(rows[0]) if rows else []
    widths = [max(len(name), *(len(row[name]) for row in rows)) for name in names]
    lines = [dict(zip(names, names, strict=True)), *rows]
    return "\n".join(
        "  ".join(line[name].ljust(width) for name, width in zip(names, widths, strict=True)).rstrip()
        for line in lines
    )


def log_clean() -> None:
    """Says that nothing was found."""
    if distributed.is_main():
        logger.info("nothing was found that keeps this run from starting")


def is_ready(*parts: object) -> bool:
    """Whether no part is missing (None), in any process; called on all ranks."""
    (missing,) = distributed.any_over_ranks(any(part is None for part in parts))
    return not missing
