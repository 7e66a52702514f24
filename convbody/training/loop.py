"""The training loop. It knows no task: models, batches and losses are given to it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from convbody.training import distributed, parallel
from convbody.training.checkpoint import CheckpointError, CheckpointFolder, write_checkpoint
from convbody.training.ema import ModelEma
from convbody.training.logging import setup_logging
from convbody.training.metrics import MetricsLog, Progress
from convbody.training.precise_bn import precise_statistics
from convbody.training.prefetch import on_device
from convbody.training.random_state import untouched_random_state
from convbody.training.resume import begin
from convbody.training.schedule import Stages, build_optimizer, learning_rate, set_learning_rate
from convbody.training.signals import StopRequest
from convbody.training.state import IterationStart, TrainingState
from convbody.training.step import Step, autocast_dtype
from registry import Config, ConfigError, ConvbodyError

Batch = TypeVar("Batch")
Evaluate = Callable[[nn.Module, int], dict[str, float]]
logger = logging.getLogger(__name__)


class NonFiniteLossError(ConvbodyError):
    """A loss is NaN or infinite; the message names the term, the iteration and the batch."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    ``iteration``: iterations done. ``model``: the module to use, the averaged one under EMA, unwrapped; under
    SOLVER.PARALLEL "fsdp" use it inside ``parallel.assembled(model)``.
    ``evaluations``: results by iteration. ``interrupted``: stopped by SIGTERM or Ctrl-C before the end.
    """

    iteration: int
    model: nn.Module
    evaluations: dict[int, dict[str, float]]
    interrupted: bool

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
        OutOfMemoryError: an iteration does not fit into memory; batches have to be tuples whose parts have an
            entry for each image.
        NonFiniteLossError: the state before the failing iteration has been saved and can be resumed.
    """
    solver, folder = cfg.SOLVER, Path(output_dir)
    setup_logging(folder)
    if solver.ACCUMULATE < 1:
        raise ConfigError("an iteration needs at least one batch", "SOLVER.ACCUMULATE", cfg)
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
    if distributed.is_main():
        (folder / "config.yaml").write_text(cfg.dump())
    step = Step(state, losses, batch_ids, device)

    def save(iteration: int) -> Path:
        payload = state.capture(iteration)
        if distributed.is_main():
            logger.info("saved %s", checkpoints.save(payload, iteration))
        return checkpoints.path(iteration)

    def is_due(iteration: int, period: int) -> bool:
        return iteration == solver.MAX_ITER or (period > 0 and iteration % period == 0)

    with MetricsLog(folder, start, solver.TENSORBOARD) as log, StopRequest() as stop:

        def statistics(module: nn.Module, iteration: int) -> AbstractContextManager[None]:
            if not solver.PRECISE_BN.ENABLED:
                return nullcontext()
            stream = batches(iteration * solver.ACCUMULATE)
            return precise_statistics(module, losses, stream, solver.PRECISE_BN.BATCHES)

        assess = _Assessment(state, checkpoints, evaluate, statistics, log)
        if start and is_due(start, solver.TEST_PERIOD) and start not in log.evaluations:
            assess(start)  # the run was stopped between saving and evaluating
        progress = Progress(solver.MAX_ITER, solver.IMS_PER_BATCH * solver.ACCUMULATE)
        stream = on_device(batches(start * solver.ACCUMULATE), device)
        for iteration in range(start, solver.MAX_ITER):
            lr, done, began = rate(iteration), iteration + 1, time.perf_counter()
            set_learning_rate(state.optimizer, lr)
            before = IterationStart(model)
            outcome = step.forward_backward(stream)
            failed, stopping = distributed.any_over_ranks(bool(outcome.failure), stop.signal_name is not None)
            if failed:
                before.put_back()
                raise _nonfinite(outcome.failure, done, save)
            step.update(done)
            if iteration == start:  # with MODEL.COMPILE mostly the compiler's time
                logger.info("the first iteration took %.1f s", time.perf_counter() - began)
            progress.add(outcome.losses, outcome.data_seconds)
            if is_due(done, solver.LOG_PERIOD):
                log.add(progress.report(done, lr))
            if stopping or is_due(done, solver.CHECKPOINT_PERIOD):
                save(done)
            if stopping and done < solver.MAX_ITER:
                logger.info("stopped by a signal after iteration %d; --resume goes on from there", done)
                return TrainResult(done, state.evaluated, log.evaluations, interrupted=True)
            if is_due(done, solver.TEST_PERIOD):
                assess(done)
                progress.restart_clock()
    return TrainResult(max(start, solver.MAX_ITER), state.evaluated, log.evaluations, interrupted=False)


@dataclass
class _Assessment:
    """Evaluates, records the result, and keeps the best weights."""

    state: TrainingState
    checkpoints: CheckpointFolder
    evaluate: Evaluate | None
    statistics: Callable[[nn.Module, int], AbstractContextManager[None]]
    log: MetricsLog

    def __call__(self, iteration: int) -> None:
        if self.evaluate is None:
            return
        module = self.state.evaluated
        distributed.broadcast_buffers(module)
        module.eval()
        with untouched_random_state(), torch.no_grad(), self.statistics(module, iteration):
            self._evaluate(module, iteration)
        self.state.model.train()

    def _evaluate(self, module: nn.Module, iteration: int) -> None:
        assert self.evaluate is not None
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
            if distributed.is_main():
                write_checkpoint({**best, **said}, self.checkpoints.best)
                logger.info("best so far: %s %.4f at iteration %d", name, score, iteration)
        # After best.pth: a row here means that all that follows from it is on disk.
        self.log.add({"iteration": iteration, "eval": metrics})


def _nonfinite(failure: str, iteration: int, save: Callable[[int], Path]) -> NonFiniteLossError:
    """The error that all processes raise together, after saving the state before ``iteration``."""
    first = next(text for text in distributed.all_gather_object(failure) if text)
    try:
        rescue = f"--resume repeats it from {save(iteration - 1)}"
    except CheckpointError as error:
        rescue = str(error)
    return NonFiniteLossError(
        f"{first} in iteration {iteration}; {rescue}; look at these images, or lower SOLVER.BASE_LR, "
        f"or set SOLVER.CLIP_GRADIENTS.ENABLED True"
    )
