"""``train_classifier(cfg)``: data, classifier, loop and evaluation of one run, then the body's weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from backbones import Classifier
from backbones.freeze import FREEZE_KEY
from backbones.weights import deferred_init, load_weights
from backbones.weights.contract import WeightContract, contract_of
from backbones.weights.read import CONTRACT
from backbones.weights.write import write_tensors
from convbody.classification.data.loader import Batch, open_datasets, train_batches
from convbody.classification.evaluation import evaluate
from convbody.classification.loss import cross_entropy, mixup, target_maker
from convbody.classification.model import build_classifier, network_input
from convbody.data.exif_choice import EXIF, unannotated_note
from convbody.training import distributed, parallel
from convbody.training.checkpoint import CheckpointFolder, read_checkpoint
from convbody.training.lock import one_run_per_folder
from convbody.training.logging import setup_logging
from convbody.training.loop import TrainResult, train
from registry import Config, ConfigError

#: What a run leaves in OUTPUT_DIR for MODEL.WEIGHT of another.
BODY_FILE = "body.pth"
logger = logging.getLogger(__name__)


@one_run_per_folder
def train_classifier(cfg: Config, *, resume: bool = False) -> TrainResult:
    """Trains the classifier that ``cfg`` describes and evaluates it on DATASETS.TEST, into OUTPUT_DIR.

    The folder receives checkpoints, metrics.jsonl, the log, and body.pth: the weights of the body, the best
    where there was an evaluation, with what they expect of their input. Each process of a distributed run
    calls this alike.

    Raises:
        ConvbodyError: anything a user can mend, before the first iteration wherever it can be known by then.
    """
    output_dir = Path(cfg.OUTPUT_DIR)
    setup_logging(output_dir)
    if not cfg.DATASETS.TRAIN:
        raise ConfigError("no data set to train on", "DATASETS.TRAIN", cfg)
    batches = train_batches(cfg, open_datasets(cfg, "DATASETS.TRAIN"))
    test_sets = open_datasets(cfg, "DATASETS.TEST")
    model = build_initial_classifier(cfg)
    contract = trained_contract(cfg)
    result = train(
        cfg,
        model,
        batches,
        losses=classifier_losses(cfg),
        batch_ids=lambda batch: batch[2],
        output_dir=output_dir,
        evaluate=(lambda module, _: evaluate(module, cfg, test_sets)) if test_sets else None,
        stages=model.backbone.stages(),
        notes={CONTRACT: contract.record(), EXIF: unannotated_note(cfg.DATASETS.EXIF)},
        resume=resume,
    )
    batches.unread.report("training")
    weights = parallel.whole(result.model.state_dict())
    if distributed.is_main() and not result.interrupted:
        logger.info("wrote %s", write_body(weights, contract, output_dir))
    return result


def build_initial_classifier(cfg: Config) -> Classifier:
    """The classifier with the weights a run starts from: random ones by SEED, then those of MODEL.WEIGHT.

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
        report = load_weights(model, cfg.MODEL.WEIGHT, cfg)
    if distributed.is_main():
        logger.info("%s", report)
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


def write_body(weights: Mapping[str, Tensor], contract: WeightContract, output_dir: Path) -> Path:
    """Writes the body of the best checkpoint, or ``weights`` where none was evaluated; gives the path."""
    best = CheckpointFolder(output_dir / "checkpoints", keep=0).best
    state = read_checkpoint(best)["model"] if best.exists() else weights
    prefix = "backbone."
    body = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    path = output_dir / BODY_FILE
    write_tensors(body, path, "convbody", contract)
    return path
