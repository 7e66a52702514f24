"""What a classifier's run needs, opened, checked and tried before its first iteration."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from backbones import Classifier
from backbones.weights.read import CONTRACT
from convbody.classification.data.loader import (
    Batch,
    Known,
    open_test_sets,
    open_train_sets,
    train_batches,
    trial_batch,
)
from convbody.classification.data.sets import LabelledImages
from convbody.classification.evaluation import METRICS, accuracy_of_two
from convbody.classification.initial import build_initial_classifier, classifier_losses, trained_contract
from convbody.data.batches import NumberedBatches
from convbody.data.exif_choice import EXIF, unannotated_note
from convbody.training import distributed
from convbody.training.class_rows import CLASSES
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
from registry import Config

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """The parts of a run: the model with its first weights, its data, and the notes of its checkpoints."""

    model: Classifier
    batches: NumberedBatches[Batch]
    test_sets: list[LabelledImages]
    notes: dict[str, Any]


def dry_run(cfg: Config, *, resume: bool = False) -> None:
    """``preflight`` alone, with its log on the console."""
    setup_logging()
    preflight(cfg, resume=resume)
    log_clean()


def preflight(cfg: Config, *, resume: bool = False) -> Prepared:
    """The parts of the run that ``cfg`` describes, after all that can be known of it by now is known.

    The data sets are opened, checked and counted. Two images of each test set are classified and scored, two
    of the training set go through a step without an update, and a checkpoint is written and read. No trace is
    left: neither in the model and the random generators nor in OUTPUT_DIR. Each process of a distributed run
    calls this alike.

    Raises:
        ConvbodyError: what would keep the run from its end; of several findings, all.
    """
    findings = Findings()
    check_settings(cfg, findings)
    known = known_to_resume(cfg, resume)
    train_sets = findings.attempt(open_train_sets, cfg, known)
    known = known or known_of(train_sets)
    test_sets = findings.attempt(open_test_sets, cfg, known)
    batches = findings.attempt(train_batches, cfg, train_sets) if train_sets else None
    losses = findings.attempt(classifier_losses, cfg)
    if test_sets is not None:
        findings.attempt(check_best_metric, cfg, metric_names(test_sets))
    log_table(train_sets or [], test_sets or [])
    model = findings.attempt(build_initial_classifier, cfg, known)
    if model is not None:
        findings.attempt(check_divisible, cfg, model)
    notes: dict[str, Any] = {CONTRACT: trained_contract(cfg).record()}
    notes[EXIF] = unannotated_note(cfg.DATASETS.EXIF)
    notes[CLASSES] = list(known.classes) if known else []
    if is_ready(train_sets, test_sets, batches, losses, model):
        assert train_sets and losses and model is not None and test_sets is not None
        model.to(distributed.device_for(cfg))
        with untouched(model):
            rehearse_evaluation(cfg, findings, model, test_sets)
            with findings.rehearsing("a training step"):
                rehearse_step(cfg, model, losses, trial_batch(cfg, train_sets))
        state = findings.attempt(initial_state, cfg, model, model.backbone.stages(), notes)
        rehearse_saving(findings, state, state_growth(state) if state else 0, Path(cfg.OUTPUT_DIR), resume)
    findings.stop_if_any()
    return Prepared(cast(Classifier, model), cast(Any, batches), test_sets or [], notes)


def metric_names(test_sets: Sequence[LabelledImages]) -> list[str]:
    """The names of the metrics that ``evaluate`` gives."""
    if len(test_sets) == 1:
        return list(METRICS)
    return [f"{images.name}/{metric}" for images in test_sets for metric in METRICS]


def log_table(train_sets: Sequence[LabelledImages], test_sets: Sequence[LabelledImages]) -> None:
    """A line for each data set: how many images and classes, and of how many images these are."""
    rows = []
    for use, sets in (("train", train_sets), ("test", test_sets)):
        for images in sets:
            counts = Counter(images.labels)
            smallest, largest = min(counts.values(), default=0), max(counts.values(), default=0)
            rows.append(
                {
                    "data set": images.name,
                    "for": use,
                    "images": f"{len(images):,}",
                    "classes": f"{len(counts)} of {len(images.class_names)}",
                    "images of a class": f"{smallest:,} to {largest:,}",
                    "sizes": images.sizes,
                }
            )
    if rows and distributed.is_main():
        logger.info("the data sets:\n%s", in_columns(rows))


def rehearse_evaluation(
    cfg: Config, findings: Findings, model: nn.Module, test_sets: Sequence[LabelledImages]
) -> None:
    """Classifies two images of each test set and scores them, on the main process."""
    if not distributed.is_main():
        return
    model.eval()
    for images in test_sets:
        with findings.rehearsing(f"evaluating two images of {images.name!r}"):
            accuracy_of_two(model, cfg, images)


def known_of(train_sets: Sequence[LabelledImages] | None) -> Known | None:
    """The classes of the training sets, if there are any."""
    if not train_sets:
        return None
    return Known(train_sets[0].class_names, f"data set {train_sets[0].name!r}")


def known_to_resume(cfg: Config, resume: bool) -> Known | None:
    """The classes of the run that is gone on with."""
    file, notes = notes_to_resume(Path(cfg.OUTPUT_DIR), resume)
    classes = notes.get(CLASSES)
    return Known(tuple(map(str, classes)), file) if classes else None
