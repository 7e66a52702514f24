"""What a classifier's run begins with: weights, losses, and what it says of its weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from backbones import Classifier
from backbones.freeze import FREEZE_KEY
from backbones.weights import deferred_init, load_weights
from backbones.weights.contract import WeightContract, contract_of
from convbody.classification.data.loader import Batch, Known
from convbody.classification.loss import cross_entropy, mixup, target_maker
from convbody.classification.model import build_classifier, network_input
from convbody.training import distributed
from convbody.training.class_rows import CLASSES, ByName, ClassRows, layer_rows
from registry import Config, ConfigError

logger = logging.getLogger(__name__)


def build_initial_classifier(cfg: Config, known: Known | None = None) -> Classifier:
    """The classifier with the weights a run starts from: random ones by SEED, then those of MODEL.WEIGHT.

    Of a file with other classes than ``known``, what belongs to classes of the same names is taken.

    Raises:
        ConfigError: stages would be frozen at random weights.
    """
    torch.manual_seed(cfg.SEED)
    if not cfg.MODEL.WEIGHT:
        if cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT > 0:
            raise ConfigError(
                "without MODEL.WEIGHT, stages would be frozen at random weights; set 0", FREEZE_KEY, cfg
            )
        return build_classifier(cfg)
    with deferred_init():
        model = build_classifier(cfg)
        by_name = ByName(layer_rows("fc", ClassRows()), {CLASSES: known.classes} if known else {})
        report = load_weights(model, cfg.MODEL.WEIGHT, cfg, by_name)
    if distributed.is_main():
        logger.info("%s", report)
        by_name.report(report.file)
    return model


def classifier_losses(cfg: Config) -> Callable[[nn.Module, Batch], dict[str, Tensor]]:
    """The loss of a batch with the smoothing and the mixup of the config; moves it to the model's device."""
    make_targets, alpha = target_maker(cfg), cfg.INPUT.CLASSIFICATION.MIXUP_ALPHA

    def losses(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        images = network_input(batch[0].to(device, non_blocking=True), cfg)
        targets = make_targets(batch[1].to(device, non_blocking=True))
        if alpha > 0:
            images, targets = mixup(images, targets, alpha)
        return {"loss_class": cross_entropy(model(images), targets)}

    return losses


def trained_contract(cfg: Config) -> WeightContract:
    """What weights trained with ``cfg`` expect, the size of their images included."""
    contract = contract_of(cfg)
    assert contract is not None  # a config of a classifier has INPUT
    side = int(cfg.INPUT.CLASSIFICATION.SIZE_TRAIN)
    return replace(contract, size=(side, side))
