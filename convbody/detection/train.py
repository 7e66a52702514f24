"""``train_detector(cfg)``: data, detector, loop, evaluation and report of one run, put together."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.weights import deferred_init, load_weights
from backbones.weights.contract import contract_of
from backbones.weights.read import CONTRACT
from convbody.data.exif_choice import EXIF, Orientations, exif_note
from convbody.detection.coco_names import assumed_names
from convbody.detection.data import (
    CocoDataset,
    Known,
    build_train_batches,
    check_class_count,
    open_test_sets,
    train_datasets,
)
from convbody.detection.evaluation import EvaluationResult, evaluate_all, flat_metrics
from convbody.detection.evaluation.evaluators import choose_evaluator
from convbody.detection.evaluation.expected import check_expectations, read_expectations
from convbody.detection.evaluation.run import evaluation_folder
from convbody.detection.model import Detector, build_detector
from convbody.detection.report import write_report
from convbody.training import distributed
from convbody.training.class_rows import CLASSES, KEYPOINTS, ByName, class_rows
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
    expectations = read_expectations(cfg)
    choose_evaluator(cfg)  # raises now rather than at the first evaluation
    output_dir = Path(cfg.OUTPUT_DIR)
    setup_logging(output_dir)
    train_sets = train_datasets(cfg)
    batches = build_train_batches(cfg, train_sets)
    known = Known(train_sets[0].classes, train_sets[0].keypoint_names, f"data set {cfg.DATASETS.TRAIN[0]!r}")
    test_sets = open_test_sets(cfg, known) if cfg.DATASETS.TEST else {}
    model = build_initial_detector(cfg, known)
    check_class_count(cfg, model.needs, train_sets[0])
    latest: dict[str, EvaluationResult] = {}

    def evaluate(module: nn.Module, iteration: int) -> dict[str, float]:
        latest.update(evaluate_all(module, cfg, test_sets, output_dir))
        return flat_metrics(latest)

    result = train(
        cfg,
        model,
        batches,
        losses=detector_losses,
        batch_ids=image_ids,
        output_dir=output_dir,
        evaluate=evaluate if cfg.DATASETS.TEST else None,
        stages=model.backbone.stages(),
        notes=_notes(cfg, model, known, train_sets),
        resume=resume,
    )
    batches.unread.report("training")
    if cfg.DATASETS.TEST and not result.interrupted:
        # Nothing new where a finished run was resumed: the page is made of what that run has left.
        results = latest or _saved_results(cfg, output_dir)
        if distributed.is_main():
            seconds = time.monotonic() - started
            logger.info("wrote %s", write_report(output_dir, cfg, results, test_sets, seconds=seconds))
        check_expectations(expectations, results)
    return result


def build_initial_detector(cfg: Config, known: Known | None = None) -> Detector:
    """The detector with the weights a run starts from: random ones by SEED, then those of MODEL.WEIGHT.

    Of a file with other classes than ``known``, what belongs to classes of the same names is taken.
    """
    torch.manual_seed(cfg.SEED)
    if not cfg.MODEL.WEIGHT:
        return build_detector(cfg)
    with deferred_init():
        model = build_detector(cfg)
        names = {} if known is None else {CLASSES: known.classes, KEYPOINTS: tuple(known.keypoints)}
        by_name = ByName(class_rows(model), names, assumed_names)
        report = load_weights(model, cfg.MODEL.WEIGHT, cfg, by_name)
    if distributed.is_main():
        logger.info("%s", report)
        by_name.report(report.file)
    return model


def detector_losses(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The named losses of a batch, which is moved to the model's device."""
    device = next(model.parameters()).device
    images, targets = batch
    moved = [
        {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in target.items()}
        for target in targets
    ]
    losses: dict[str, Tensor] = model([image.to(device, non_blocking=True) for image in images], moved)
    return losses


def image_ids(batch: Batch) -> list[str]:
    """The data set's ids of the images in a batch."""
    return [str(int(target["image_id"])) for target in batch[1]]


def _notes(cfg: Config, model: Detector, known: Known, train_sets: Sequence[CocoDataset]) -> dict[str, Any]:
    """What every file with this run's weights says of them."""
    seen = sum((dataset.orientations for dataset in train_sets), Orientations())
    notes: dict[str, Any] = {EXIF: exif_note(cfg.DATASETS.EXIF, seen)}
    if (contract := contract_of(cfg)) is not None:
        notes[CONTRACT] = contract.record()
    if model.needs.num_classes is not None:
        notes |= {CLASSES: list(known.classes), KEYPOINTS: list(known.keypoints)}
    return notes


def _saved_results(cfg: Config, output_dir: Path) -> dict[str, EvaluationResult]:
    """What an earlier run has left, read by the main process, which alone is sure to see the folder."""
    saved: dict[str, EvaluationResult] = {}
    if distributed.is_main():
        saved = {
            name: EvaluationResult.load(evaluation_folder(output_dir, name)) for name in cfg.DATASETS.TEST
        }
    return distributed.broadcast_object(saved)
