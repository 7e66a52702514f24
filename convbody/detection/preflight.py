"""What a detector's run needs, opened, checked and tried before its first iteration."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from convbody.data.batches import NumberedBatches
from convbody.detection.data import CocoDataset, Known, build_test_dataset, check_class_count, train_datasets
from convbody.detection.data.census import Census, census
from convbody.detection.data.loader import TrainDataset, build_train_batches
from convbody.detection.evaluation.evaluators import choose_evaluator
from convbody.detection.evaluation.expected import Expectation, check_measurable, read_expectations
from convbody.detection.evaluation.run import named_by_set, tasks_of
from convbody.detection.evaluation.scoring import metric_names
from convbody.detection.initial import Batch, build_initial_detector, detector_losses, notes_of_run
from convbody.detection.model import Detector
from convbody.detection.rehearsal import rehearse_evaluation, trial_batch
from convbody.training import distributed
from convbody.training.findings import Findings
from convbody.training.logging import setup_logging
from convbody.training.parallel import check_divisible
from convbody.training.preflight import (
    check_best_metric,
    check_settings,
    in_columns,
    initial_state,
    is_ready,
    log_clean,
    notes_to_resume,
    rehearse_saving,
    rehearse_step,
    state_growth,
    untouched,
)
from registry import Config, ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """The parts of a run: the model with its first weights, its data, the notes of its checkpoints, and the
    results that are expected of it.
    """

    model: Detector
    batches: NumberedBatches[Batch]
    test_sets: dict[str, CocoDataset]
    notes: dict[str, Any]
    expectations: list[Expectation]


def dry_run(cfg: Config, *, resume: bool = False) -> None:
    """``preflight`` alone, with its log on the console."""
    setup_logging()
    preflight(cfg, resume=resume)
    log_clean()


def preflight(cfg: Config, *, resume: bool = False) -> Prepared:
    """The parts of the run that ``cfg`` describes, after all that can be known of it by now is known.

    The data sets are opened, checked and counted. Two images of each test set go through the detector, the
    scoring and the report, the smallest of the training sets through a step without an update, and a
    checkpoint is written and read. No trace is left: neither in the model and the random generators nor in
    OUTPUT_DIR. Each process of a distributed run calls this alike.

    Raises:
        ConvbodyError: what would keep the run from its end; of several findings, all.
    """
    findings = Findings()
    check_settings(cfg, findings)
    evaluator = findings.attempt(choose_evaluator, cfg)
    expectations = findings.attempt(read_expectations, cfg)
    file, notes = notes_to_resume(Path(cfg.OUTPUT_DIR), resume)
    known = Known.of(notes, file)
    train_sets = findings.attempt(train_datasets, cfg, known)
    if train_sets and known is None:
        first = train_sets[0]
        known = Known(first.classes, first.keypoint_names, f"data set {cfg.DATASETS.TRAIN[0]!r}")
    test_sets = {
        name: dataset
        for name in cfg.DATASETS.TEST
        if (dataset := findings.attempt(build_test_dataset, cfg, name, known)) is not None
    }
    trained_on = findings.attempt(TrainDataset, cfg, train_sets) if train_sets else None
    batches = findings.attempt(build_train_batches, cfg, trained_on) if trained_on else None
    counts = {name: census(dataset.records) for name, dataset in test_sets.items()}
    _log_table(cfg, train_sets or [], counts)
    if len(counts) == len(cfg.DATASETS.TEST):
        given = {name: measurable(cfg, count) for name, count in counts.items()}
        findings.attempt(check_best_metric, cfg, named_by_set(given))
        findings.attempt(check_measurable, cfg, expectations or [], given)
    model = findings.attempt(build_initial_detector, cfg, known)
    if model is not None:
        findings.attempt(check_divisible, cfg, model)
        if train_sets:
            findings.attempt(check_class_count, cfg, model.needs, train_sets[0])
            findings.attempt(_check_keypoint_count, cfg, model, train_sets[0])
    made = notes_of_run(cfg, model, known, train_sets) if model is not None and known and train_sets else {}
    if is_ready(model, trained_on):
        assert model is not None and trained_on is not None
        model.to(distributed.device_for(cfg))
        with untouched(model):
            if distributed.is_main() and evaluator:
                for name, dataset in test_sets.items():
                    with findings.rehearsing(f"evaluating two images of {name!r}"):
                        rehearse_evaluation(cfg, model, name, dataset, evaluator)
            with findings.rehearsing("a training step on the smallest images"):
                rehearse_step(cfg, model, detector_losses, trial_batch(cfg, trained_on))
        state = findings.attempt(initial_state, cfg, model, model.backbone.stages(), made)
        rehearse_saving(findings, state, state_growth(state) if state else 0, Path(cfg.OUTPUT_DIR), resume)
    findings.stop_if_any()
    return Prepared(cast(Detector, model), cast(Any, batches), test_sets, made, expectations or [])


def measurable(cfg: Config, counts: Census) -> list[str]:
    """The names of the metrics that evaluating a data set of these counts gives."""
    return [
        f"{task}/{metric}" for task in tasks_of(cfg) for metric in metric_names(task, counts.sizes_for(task))
    ]


def _log_table(cfg: Config, train_sets: Sequence[CocoDataset], counts: Mapping[str, Census]) -> None:
    names = zip(cfg.DATASETS.TRAIN, train_sets, strict=False)  # none, where one of them cannot be opened
    rows = [census(dataset.records).row(name, "train") for name, dataset in names]
    rows += [count.row(name, "test") for name, count in counts.items()]
    if rows and distributed.is_main():
        logger.info("the data sets:\n%s", in_columns(rows))


def _check_keypoint_count(cfg: Config, model: Detector, dataset: CocoDataset) -> None:
    names = len(dataset.keypoint_names)
    if model.needs.keypoints not in (0, names):
        raise ConfigError(
            f"{dataset.ann_file} names {names} keypoints", "MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", cfg
        )
