"""``train_classifier(cfg)``: data, classifier, loop and evaluation of one run, then the body's weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from backbones.weights.contract import WeightContract
from backbones.weights.write import write_tensors
from convbody.classification.evaluation import evaluate
from convbody.classification.initial import classifier_losses, trained_contract
from convbody.classification.preflight import preflight
from convbody.training import distributed, parallel
from convbody.training.checkpoint import CheckpointFolder, read_checkpoint
from convbody.training.lock import one_run_per_folder
from convbody.training.logging import setup_logging
from convbody.training.loop import TrainResult, train
from registry import Config

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
    run = preflight(cfg, resume=resume)
    result = train(
        cfg,
        run.model,
        run.batches,
        losses=classifier_losses(cfg),
        batch_ids=lambda batch: batch[2],
        output_dir=output_dir,
        evaluate=(lambda module, _: evaluate(module, cfg, run.test_sets)) if run.test_sets else None,
        stages=run.model.backbone.stages(),
        notes=run.notes,
        resume=resume,
    )
    run.batches.unread.report("training")
    weights = parallel.whole(result.model.state_dict())
    if distributed.is_main() and not result.interrupted:
        logger.info("wrote %s", write_body(weights, trained_contract(cfg), output_dir))
    return result


def write_body(weights: Mapping[str, Tensor], contract: WeightContract, output_dir: Path) -> Path:
    """Writes the body of the best checkpoint, or ``weights`` where none was evaluated; gives the path."""
    best = CheckpointFolder(output_dir / "checkpoints", keep=0).best
    state = read_checkpoint(best)["model"] if best.exists() else weights
    prefix = "backbone."
    body = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    path = output_dir / BODY_FILE
    write_tensors(body, path, "convbody", contract)
    return path
