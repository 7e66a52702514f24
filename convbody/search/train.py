"""``search(cfg)``: trains a supernet and the choice among its candidates, in turns."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from convbody.classification.data.loader import Batch
from convbody.classification.data.sets import LabelledImages
from convbody.classification.evaluation import evaluate
from convbody.search.preflight import preflight
from convbody.search.run import Mixture, SearchRun
from convbody.search.split import Moment
from convbody.training import distributed
from convbody.training.checkpoint import CheckpointFolder
from convbody.training.lock import one_run_per_folder
from convbody.training.logging import setup_logging
from convbody.training.metrics import MetricsLog
from convbody.training.output import OutputError, write_config
from convbody.training.random_state import untouched_random_state
from convbody.training.rescue import draw, rescued
from convbody.training.resume import begin
from convbody.training.signals import StopRequest
from convbody.training.step import NonFiniteLossError
from registry import Config, ConvbodyError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """How a search ended: steps done, the choice (layers, candidates), and the signal that stopped it."""

    step: int
    theta: Tensor
    stopped_by: signal.Signals | None

    @property
    def exit_status(self) -> int:
        """What a program returns that has done this search: 0, or 128 + the signal."""
        return 128 + self.stopped_by if self.stopped_by else 0


@one_run_per_folder
def search(cfg: Config, *, resume: bool = False) -> SearchResult:
    """The search that SEARCH describes, into OUTPUT_DIR; each process of a distributed run calls this alike.

    Every epoch trains weights on one part of DATASETS.TRAIN, and after SEARCH.WARMUP_EPOCHS the choice on the
    other part. The folder receives checkpoints, metrics.jsonl with a row for each epoch, and the log.

    Raises:
        ConvbodyError: anything a user can mend, before the first step wherever it can be known by then.
    """
    folder = Path(cfg.OUTPUT_DIR)
    setup_logging(folder)
    prepared = preflight(cfg, resume=resume)
    run, plan, model = prepared.run, prepared.run.plan, prepared.run.model
    distributed.broadcast_state(model)
    checkpoints = CheckpointFolder(folder / "checkpoints", cfg.SOLVER.KEEP_CHECKPOINTS)
    start = begin(run, checkpoints, resume)
    write_config(cfg, folder)
    streams = _Streams(prepared.batches)

    def save(step: int) -> Path:
        payload = run.capture(step)
        path = distributed.on_main(lambda: checkpoints.save(payload, step))
        logger.info("saved %s", path)
        return path

    with MetricsLog(folder, start, cfg.SOLVER.TENSORBOARD) as log, StopRequest() as stop:
        for step in range(start, plan.total):
            moment, done = plan.at(step), step + 1
            try:
                batch = draw(streams.of(moment))
            except ConvbodyError as error:
                raise rescued(error, save, step) if step > start else error from None
            loss = _step(run, batch, moment)
            stop.defer()
            failed, stopped_by = stop.over_ranks(not math.isfinite(loss))
            if failed:
                raise NonFiniteLossError(
                    f"the loss is {loss} in step {done}; lower SOLVER.BASE_LR, then start anew or --resume"
                )
            epoch = moment.epoch + 1 if done == plan.steps_before(moment.epoch + 1) else 0
            if epoch:
                try:
                    _report(run, prepared.test_sets, log, done, epoch)
                except OutputError as error:
                    raise rescued(error, save, done) from None
            if stopped_by or done == plan.total or _is_due(epoch, cfg.SEARCH.CHECKPOINT_EPOCHS):
                save(done)
            if stopped_by:
                logger.info("stopped by a signal after step %d; --resume goes on from there", done)
                return SearchResult(done, model.theta.detach().cpu(), stopped_by)
    for part in prepared.batches:
        part.unread.report("training")
    return SearchResult(plan.total, model.theta.detach().cpu(), stop.signal)


class _Streams:
    """The batches of both parts, each from the first moment asked for on."""

    def __init__(self, batches: Sequence[Callable[[int], Iterator[Batch]]]) -> None:
        self._batches = batches
        self._open: dict[bool, Iterator[Batch]] = {}

    def of(self, moment: Moment) -> Iterator[Batch]:
        """The stream whose next batch is that of a moment; moments come in their order."""
        theta = moment.trains_theta
        if theta not in self._open:
            self._open[theta] = self._batches[theta](moment.number)
        return self._open[theta]


def _step(run: SearchRun, batch: Batch, moment: Moment) -> float:
    if moment.trains_theta:
        return run.theta_step(batch, moment.epoch)
    return run.weight_step(batch, moment.number, moment.epoch)


def _is_due(epoch: int, period: int) -> bool:
    return epoch > 0 and period > 0 and epoch % period == 0


def _report(run: SearchRun, tests: list[LabelledImages], log: MetricsLog, done: int, epoch: int) -> None:
    """The row of an epoch that has ended, and its evaluation where one is due."""
    row = run.report(epoch - 1)
    logger.info(
        "epoch %d/%d  %s  latency %.0f us, of the likeliest %.0f us  beta %.3g  temperature %.3g",
        epoch, run.plan.epochs, ", ".join(f"{name} {loss:.4g}" for name, loss in row["losses"].items()),
        row["latency_us"]["expected"], row["latency_us"]["likeliest"], row["beta"], row["temperature"],
    )  # fmt: skip
    log.add({"iteration": done, **row})
    if tests and (epoch == run.plan.epochs or _is_due(epoch, run.cfg.SEARCH.TEST_EPOCHS)):
        log.add({"iteration": done, "eval": _accuracy(run, tests)})


def _accuracy(run: SearchRun, tests: list[LabelledImages]) -> dict[str, float]:
    """Top-1 and top-5 of the likeliest architecture, or of the mixture where only mixtures were trained."""
    distributed.broadcast_buffers(run.model)
    run.model.eval()
    with untouched_random_state(), torch.no_grad():
        mixture = Mixture(run.model, run.model.theta.softmax(1)).eval()
        model = run.model if run.cfg.SEARCH.FORWARD == "sampled" else mixture
        metrics = evaluate(model, run.cfg, tests)
    run.model.train()
    return metrics
