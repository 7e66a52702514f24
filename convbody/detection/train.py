"""``train_detector(cfg)``: data, detector, loop, evaluation and report of one run, put together."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from convbody.detection.evaluation import EvaluationResult, evaluate_all, flat_metrics
from convbody.detection.evaluation.expected import check_expectations
from convbody.detection.evaluation.run import evaluation_folder
from convbody.detection.initial import detector_losses, image_ids
from convbody.detection.preflight import preflight
from convbody.detection.report import write_report
from convbody.training import distributed
from convbody.training.findings import told_in_one_line
from convbody.training.lock import one_run_per_folder
from convbody.training.logging import setup_logging
from convbody.training.loop import TrainResult, train
from registry import Config

Batch = tuple[list[Tensor], list[dict[str, Any]]]
logger = logging.getLogger(__name__)


@one_run_per_folder
def train_detector(cfg: Config, *, resume: bool = False) -> TrainResult:
    """Trains the detector that ``cfg`` describes and evaluates it on DATASETS.TEST, into OUTPUT_DIR.

    The folder receives checkpoints, metrics.jsonl, the log, the last evaluation of each test set and
    report.html. Each process of a distributed run calls this alike.

    Raises:
        ConvbodyError: anything a user can mend, before the first iteration wherever it can be known by then.
        UnexpectedResultError: the last results are not what TEST.EXPECTED_RESULTS says, once all is written.
    """
    started = time.monotonic()
    output_dir = Path(cfg.OUTPUT_DIR)
    setup_logging(output_dir)
    run = preflight(cfg, resume=resume)
    latest: dict[str, EvaluationResult] = {}

    def evaluate(module: nn.Module, iteration: int) -> dict[str, float]:
        latest.update(evaluate_all(module, cfg, run.test_sets, output_dir))
        return flat_metrics(latest)

    result = train(
        cfg,
        run.model,
        run.batches,
        losses=detector_losses,
        batch_ids=image_ids,
        output_dir=output_dir,
        evaluate=evaluate if cfg.DATASETS.TEST else None,
        stages=run.model.backbone.stages(),
        notes=run.notes,
        resume=resume,
    )
    run.batches.unread.report("training")
    if cfg.DATASETS.TEST and not result.interrupted:
        # Nothing new where a finished run was resumed: the page is made of what that run has left.
        results = latest or _saved_results(cfg, output_dir)

        def report() -> Path:
            seconds = time.monotonic() - started
            with told_in_one_line("the training is finished and saved, but the report"):
                return write_report(output_dir, cfg, results, run.test_sets, seconds=seconds)

        logger.info("wrote %s", distributed.on_main(report))
        check_expectations(run.expectations, results)
    return result


def _saved_results(cfg: Config, output_dir: Path) -> dict[str, EvaluationResult]:
    """What an earlier run has left, read by the main process, which alone is sure to see the folder."""
    return distributed.on_main(
        lambda: {
            name: EvaluationResult.load(evaluation_folder(output_dir, name)) for name in cfg.DATASETS.TEST
        }
    )
