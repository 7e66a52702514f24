"""The training loop. It knows no task: models, batches and losses are given to it."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from convbody.training import distributed, parallel
from convbody.training.assessment import Assessment, Evaluate
from convbody.training.checkpoint import CheckpointFolder
from convbody.training.ema import ModelEma
from convbody.training.logging import setup_logging
from convbody.training.metrics import MetricsLog, Progress
from convbody.training.output import OutputError, write_config
from convbody.training.precise_bn import precise_statistics
from convbody.training.prefetch import on_device
from convbody.training.rescue import common, rescued
from convbody.training.resume import begin
from convbody.training.schedule import Stages, build_optimizer, learning_rate, set_learning_rate
from convbody.training.settings import SETTINGS
from convbody.training.signals import StopRequest
from convbody.training.state import IterationStart, TrainingState
from convbody.training.step import NonFiniteLossError, Outcome, Step, autocast_dtype
from registry import Config, ConvbodyError

Batch = TypeVar("Batch")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    ``iteration``: iterations done. ``model``: the module to use, the averaged one under EMA, unwrapped; under
    SOLVER.PARALLEL "fsdp" use it inside ``parallel.assembled(model)``.
    ``evaluations``: results by iteration. ``stopped_by``: the signal after which it saved and ended.
    """

    iteration: int
    model: nn.Module
    evaluations: dict[int, dict[str, float]]
    stopped_by: signal.Signals | None

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped by SIGTERM or Ctrl-C."""
        return self.stopped_by is not None

    @property
    def exit_status(self) -> int:
        """What a program returns that has done this run: 0, or 128 + the signal."""
        return 128 + self.stopped_by if self.stopped_by else 0

    @property
    def metrics(self) -> dict[str, float]:
        """The last evaluation's results; empty when there was none."""
        return self.evaluations[max(self.evaluations)] if self.evaluations else {}


def train(
    cfg: Config,
    model: nn.Module,
    batches: Callable[[int], Iterator[Batch]],
    *,
    losses: Callable[[nn.Module, Batch], dict[str, Tensor]],
    batch_ids: Callable[[Batch], list[str]],
    output_dir: str | Path,
    evaluate: Evaluate | None = None,
    stages: Stages = (),
    notes: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> TrainResult:
    """Train ``model`` for SOLVER.MAX_ITER iterations; each process of a distributed run calls this alike.

    Args:
        batches: ``batches(p)`` is the endless stream of this process's batches from number p on, counted from
            0: a function of p alone, which is what makes a resumed run equal to an uninterrupted one. With
            SOLVER.ACCUMULATE = k, iteration i takes batches k * i to k * i + k - 1. They are drawn one ahead
            on a GPU, and leave the random generators as they are.
        losses: named scalar loss terms of a batch; their sum is minimised. Runs under autocast and moves the
            batch to the model's device itself.
        batch_ids: names of a batch's samples, for error messages.
        output_dir: receives config.yaml, log.txt, metrics.jsonl, tensorboard/ and checkpoints/.
        evaluate: called with the module in eval mode and the iterations done, every SOLVER.TEST_PERIOD and at
            the end, on every process; returns the same metrics on all of them.
        stages: the backbone's parts in order, stem first, for SOLVER.LAYER_DECAY and SOLVER.PARALLEL "fsdp".
        notes: plain values that every checkpoint has beside the weights.
        resume: go on from the newest readable checkpoint in ``output_dir``, if there is one.

    Raises:
        ConfigError: a setting that cannot be used.
        CheckpointError: checkpoints of another run are in the way, or cannot be read, resumed or written.
        OutputError: another file of the run cannot be written. Where possible, the state has been saved.
        OutOfMemoryError: an iteration does not fit into memory; batches have to be tuples whose parts have an
            entry for each image.
        NonFiniteLossError: the state before the failing iteration has been saved and can be resumed, as it
            has after any error in a batch.
    """
    solver, folder = cfg.SOLVER, Path(output_dir)
    setup_logging(folder)
    for check in SETTINGS:
        check(cfg)
    device = distributed.device_for(cfg)
    model.to(device).train()
    distributed.broadcast_state(model)
    rate = learning_rate(cfg)
    ema = ModelEma(model, solver.EMA.DECAY) if solver.EMA.ENABLED else None
    parallel.shard(cfg, [model, ema.module] if ema else [model], stages)
    state = TrainingState(
        cfg,
        model,
        build_optimizer(cfg, model, stages),
        torch.amp.GradScaler(device.type, enabled=autocast_dtype(cfg) is torch.float16),
        ema,
        notes or {},
    )
    checkpoints = CheckpointFolder(folder / "checkpoints", solver.KEEP_CHECKPOINTS)
    start = begin(state, checkpoints, resume)
    write_config(cfg, folder)
    step = Step(state, losses, batch_ids, device)

    def save(iteration: int) -> Path:
        payload = state.capture(iteration)
        path = distributed.on_main(lambda: checkpoints.save(payload, iteration))
        logger.info("saved %s", path)
        return path

    def is_due(iteration: int, period: int) -> bool:
        return iteration == solver.MAX_ITER or (period > 0 and iteration % period == 0)

    def statistics(module: nn.Module, iteration: int) -> AbstractContextManager[None]:
        if not solver.PRECISE_BN.ENABLED:
            return nullcontext()
        stream = batches(iteration * solver.ACCUMULATE)
        return precise_statistics(module, losses, stream, solver.PRECISE_BN.BATCHES)

    with MetricsLog(folder, start, solver.TENSORBOARD) as log, StopRequest() as stop:
        assess = Assessment(state, checkpoints, evaluate, statistics, log) if evaluate else None
        if assess and start and is_due(start, solver.TEST_PERIOD) and start not in log.evaluations:
            with stop.at_once():
                assess(start)  # the run was stopped between saving and evaluating
        progress = Progress(solver.MAX_ITER, solver.IMS_PER_BATCH * solver.ACCUMULATE)
        stream = on_device(batches(start * solver.ACCUMULATE), device)
        for iteration in range(start, solver.MAX_ITER):
            lr, done, began = rate(iteration), iteration + 1, time.perf_counter()
            set_learning_rate(state.optimizer, lr)
            before = IterationStart(model)
            outcome = step.forward_backward(stream)
            stop.defer()
            failed, stopped_by = stop.over_ranks(outcome.failure is not None)
            if failed:
                before.put_back()
                failure = _failure(outcome, done)
                raise rescued(failure, save, iteration) if iteration > start else failure
            step.update(done)
            if iteration == start:  # with MODEL.COMPILE mostly the compiler's time
                logger.info("the first iteration took %.1f s", time.perf_counter() - began)
            progress.add(outcome.losses, outcome.data_seconds)
            if is_due(done, solver.LOG_PERIOD):
                row = progress.report(done, lr)
                try:
                    log.add(row)
                except OutputError as error:
                    raise rescued(error, save, done) from None
            # An evaluation may fail, or be stopped by a signal at any moment.
            assesses = assess is not None and is_due(done, solver.TEST_PERIOD)
            if stopped_by or assesses or is_due(done, solver.CHECKPOINT_PERIOD):
                save(done)
            if stopped_by:
                logger.info("stopped by a signal after iteration %d; --resume goes on from there", done)
                return TrainResult(done, state.evaluated, log.evaluations, stopped_by)
            if assess and assesses:
                with stop.at_once():
                    assess(done)
                progress.restart_clock()
    return TrainResult(max(start, solver.MAX_ITER), state.evaluated, log.evaluations, stop.signal)


def _failure(outcome: Outcome, iteration: int) -> ConvbodyError:
    """Why an iteration does not count, the same in all processes."""
    failure = common(outcome.failure)
    if isinstance(failure, NonFiniteLossError):
        failure.args = (
            f"{failure} in iteration {iteration}; look at these images, or lower SOLVER.BASE_LR, or set "
            "SOLVER.CLIP_GRADIENTS.ENABLED True",
        )
    return failure
