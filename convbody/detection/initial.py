"""What a detector's run begins with: weights, losses, and what it says of its weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from backbones.weights import deferred_init, load_weights
from backbones.weights.contract import contract_of
from backbones.weights.read import CONTRACT
from convbody.data.exif_choice import EXIF, Orientations, exif_note
from convbody.detection.coco_names import assumed_names
from convbody.detection.data import CocoDataset, Known
from convbody.detection.model import Detector, build_detector
from convbody.training import distributed
from convbody.training.class_rows import CLASSES, KEYPOINTS, ByName, class_rows
from registry import Config

Batch = tuple[list[Tensor], list[dict[str, Any]]]
logger = logging.getLogger(__name__)


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


def notes_of_run(
    cfg: Config, model: Detector, known: Known, train_sets: Sequence[CocoDataset]
) -> dict[str, Any]:
    """What every file with the weights of this run says of them."""
    seen = sum((dataset.orientations for dataset in train_sets), Orientations())
    notes: dict[str, Any] = {EXIF: exif_note(cfg.DATASETS.EXIF, seen)}
    if (contract := contract_of(cfg)) is not None:
        notes[CONTRACT] = contract.record()
    if model.needs.num_classes is not None:
        notes |= {CLASSES: list(known.classes), KEYPOINTS: list(known.keypoints)}
    return notes
