"""Top-1 and top-5 accuracy of a classifier on a data set, every process taking a share."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from backbones.weights import deferred_init
from convbody.classification.data.loader import (
    Batch,
    Known,
    eval_batches,
    first_batch,
    open_test_sets,
)
from convbody.classification.data.sets import LabelledImages
from convbody.classification.model import build_classifier, network_input
from convbody.data.errors import DataError
from convbody.data.exif_choice import for_testing
from convbody.data.unread import Unread
from convbody.training.class_rows import CLASSES
from convbody.training.distributed import all_gather_object, device_for
from convbody.training.finite import require_finite
from convbody.training.logging import setup_logging
from convbody.training.step import autocast_dtype
from convbody.training.trained import load_trained_weights
from registry import Config, ConfigError

#: What ``evaluate`` gives of each data set.
METRICS = ("top1", "top5")
logger = logging.getLogger(__name__)


@torch.no_grad()
def evaluate(model: nn.Module, cfg: Config, sets: Iterable[LabelledImages]) -> dict[str, float]:
    """Metrics "top1" and "top5", fractions of 1, of a model in evaluation mode; called on all ranks.

    Of several data sets the metrics are called "<data set>/top1". With fewer than 5 classes top-5 is 1.

    Raises:
        ConvbodyError: the weights have diverged.
    """
    require_finite(model)
    results = {images.name: _accuracy(model, cfg, images) for images in sets}
    for name, accuracy in results.items():
        logger.info("%s: %s", name, ", ".join(f"{metric} {value:.4f}" for metric, value in accuracy.items()))
    if len(results) == 1:
        return next(iter(results.values()))
    return {f"{name}/{key}": value for name, accuracy in results.items() for key, value in accuracy.items()}


def evaluate_checkpoint(cfg: Config) -> dict[str, float]:
    """``evaluate`` on DATASETS.TEST of trained weights; ``load_trained_weights`` says which.

    Classes are those that the weights' file names; a test set may have fewer of them.

    Raises:
        ConvbodyError: no data set, no weights, not all those of this classifier, or other classes.
    """
    setup_logging(Path(cfg.OUTPUT_DIR))
    if not cfg.DATASETS.TEST:
        raise ConfigError("there is no data set to evaluate on; name one", "DATASETS.TEST", cfg)
    with deferred_init():
        model = build_classifier(cfg)
        used = load_trained_weights(model, cfg)
    classes = used.notes.get(CLASSES)
    known = None if classes is None else Known(tuple(map(str, classes)), used.file)
    sets = open_test_sets(for_testing(cfg, used.notes), known)
    return evaluate(model.to(device_for(cfg)).eval(), cfg, sets)


@torch.no_grad()
def accuracy_of_two(model: nn.Module, cfg: Config, images: LabelledImages) -> dict[str, float]:
    """The same of the first two images of a data set, in this process alone."""
    return _shares(_counts(model, cfg, first_batch(cfg, images, 2)))


def _accuracy(model: nn.Module, cfg: Config, images: LabelledImages) -> dict[str, float]:
    unread = Unread()
    counts = torch.stack(all_gather_object(_counts(model, cfg, eval_batches(cfg, images, unread)))).sum(0)
    unread.report(f"the evaluation of {images.name}")
    if not counts[-1]:
        raise DataError(f"no image of data set {images.name!r} could be read")
    return _shares(counts)


def _shares(counts: Tensor) -> dict[str, float]:
    top1, top5, total = counts.tolist()
    return dict(zip(METRICS, (top1 / total, top5 / total), strict=True))


def _counts(model: nn.Module, cfg: Config, batches: Iterable[Batch]) -> Tensor:
    """Of all batches together, what ``_right`` gives."""
    device, dtype = next(model.parameters()).device, autocast_dtype(cfg)
    counts = torch.zeros(3, dtype=torch.int64)
    for images, labels, _ in batches:
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            logits = model(network_input(images.to(device), cfg))
        counts += _right(logits.float().cpu(), labels)
    return counts


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """int64 (3,): images whose class has the largest logit, one of the five largest, and all images."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return torch.stack((best[:, 0].sum(), best.sum(), torch.tensor(len(labels))))
