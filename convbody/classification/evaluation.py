"""Top-1 and top-5 accuracy of a classifier on a data set, every process taking a share."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from backbones.weights import deferred_init, load_weights
from convbody.classification.data.loader import Batch, eval_batches, open_datasets
from convbody.classification.data.sets import LabelledImages
from convbody.classification.model import build_classifier, network_input
from convbody.training.checkpoint import CheckpointFolder
from convbody.training.distributed import all_gather_object, device_for
from convbody.training.logging import setup_logging
from convbody.training.step import autocast_dtype
from registry import Config, ConfigError, ConvbodyError

logger = logging.getLogger(__name__)


@torch.no_grad()
def evaluate(model: nn.Module, cfg: Config, sets: Iterable[LabelledImages]) -> dict[str, float]:
    """Metrics "top1" and "top5", fractions of 1, of a model in evaluation mode; called on all ranks.

    Of several data sets the metrics are called "<data set>/top1". With fewer than 5 classes top-5 is 1.
    """
    results = {images.name: _accuracy(model, cfg, eval_batches(cfg, images)) for images in sets}
    for name, accuracy in results.items():
        logger.info("%s: %s", name, ", ".join(f"{metric} {value:.4f}" for metric, value in accuracy.items()))
    if len(results) == 1:
        return next(iter(results.values()))
    return {f"{name}/{key}": value for name, accuracy in results.items() for key, value in accuracy.items()}


def evaluate_checkpoint(cfg: Config) -> dict[str, float]:
    """``evaluate`` on DATASETS.TEST of MODEL.WEIGHT, or without it of the best checkpoint in OUTPUT_DIR.

    Raises:
        ConfigError: no data set, no checkpoint, or weights that are not all of this classifier.
    """
    setup_logging(Path(cfg.OUTPUT_DIR))
    if not cfg.DATASETS.TEST:
        raise ConfigError("there is no data set to evaluate on; name one", "DATASETS.TEST", cfg)
    sets = open_datasets(cfg, "DATASETS.TEST")
    file = cfg.MODEL.WEIGHT or str(CheckpointFolder(Path(cfg.OUTPUT_DIR) / "checkpoints", 0).best)
    with deferred_init():
        model = build_classifier(cfg)
        report = load_weights(model, file, cfg)
    if report.missing or report.wrong_shape:
        raise ConvbodyError(f"{report} - not all weights of this classifier; use the config of its training")
    return evaluate(model.to(device_for(cfg)).eval(), cfg, sets)


def _accuracy(model: nn.Module, cfg: Config, batches: Iterable[Batch]) -> dict[str, float]:
    device, dtype = next(model.parameters()).device, autocast_dtype(cfg)
    counts = torch.zeros(3, dtype=torch.int64)
    for images, labels, _ in batches:
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            logits = model(network_input(images.to(device), cfg))
        counts += _right(logits.float().cpu(), labels)
    top1, top5, total = torch.stack(all_gather_object(counts)).sum(0).tolist()
    return {"top1": top1 / total, "top5": top5 / total}


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """int64 (3,): images whose class has the largest logit, one of the five largest, and all images."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return torch.stack((best[:, 0].sum(), best.sum(), torch.tensor(len(labels))))
