"""Which trained weights a program uses that trains nothing, and how they get into the model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from backbones.weights import load_weights
from backbones.weights.contract import WeightContract, check_contract
from backbones.weights.lineages import OURS
from backbones.weights.read import CONTRACT, Names, notes_of
from backbones.weights.source import KEY
from convbody.training.checkpoint import CheckpointFolder, MisfitError, read_checkpoint
from registry import Config, ConvbodyError
from registry.tree import source_of

logger = logging.getLogger(__name__)


def named_weights(cfg: Config) -> str | None:
    """The file that MODEL.WEIGHT names, where it counts before the checkpoints in OUTPUT_DIR; else None.

    On the command line it always counts. In a config file it names what a run starts from, so it counts only
    where OUTPUT_DIR has no checkpoint: a run's own saved config means that run.
    """
    if not cfg.MODEL.WEIGHT:
        return None
    given = source_of(cfg, KEY) == "command line"
    folder = _checkpoints(cfg)
    return cfg.MODEL.WEIGHT if given or not (folder.best.exists() or folder.files()) else None


class TrainedWeights(NamedTuple):
    """The file that a model's weights are from, the code base whose names it has, and its lists of names."""

    file: str
    lineage: str
    notes: Mapping[str, Names]


def load_trained_weights(model: nn.Module, cfg: Config, weights: Path | str | None = None) -> TrainedWeights:
    """Fills ``model`` with trained weights, all of it, and says where they are from, which is logged.

    They are those of ``weights``, any file that MODEL.WEIGHT may name; without it, of MODEL.WEIGHT where
    ``named_weights`` says that it counts; else of the run in OUTPUT_DIR: its best checkpoint, or the newest
    where none was evaluated.

    Raises:
        ConvbodyError: no such file, no checkpoint, weights of another model or only of a part of this one,
            or weights that were trained with other settings than those of ``cfg``.
    """
    named = None if weights is not None else named_weights(cfg)
    contract: WeightContract | None
    if weights is not None:
        used, contract = _load_whole(model, weights, None)
    elif named is not None:
        used, _ = _load_whole(model, named, cfg)
        contract = None  # held to already, where the key was set
    else:
        path, payload = _run_payload(cfg, model)
        model.load_state_dict(_state(payload))
        record = payload.get(CONTRACT)
        contract = WeightContract.from_record(record) if record is not None else None
        used = TrainedWeights(str(path), OURS.name, notes_of(payload))
    if contract is not None:
        check_contract(contract, cfg, used.file)
    logger.info("weights of %s", used.file)
    return used


def _load_whole(
    model: nn.Module, file: Path | str, cfg: Config | None
) -> tuple[TrainedWeights, WeightContract | None]:
    report = load_weights(model, file, cfg)
    if not report.is_complete:
        raise ConvbodyError(
            f"{report.file} does not hold all weights of this model, and what it lacks is not trained: "
            f"{report.summary()}; name a file of the whole model, and use the config that it was trained with"
        )
    return TrainedWeights(str(file), report.lineage, report.notes), report.contract


def _checkpoints(cfg: Config) -> CheckpointFolder:
    return CheckpointFolder(Path(cfg.OUTPUT_DIR) / "checkpoints")


def _state(payload: Mapping[str, Any]) -> Mapping[str, Tensor]:
    state: Mapping[str, Tensor] = payload.get("ema") or payload["model"]
    return state


def _run_payload(cfg: Config, model: nn.Module) -> tuple[Path, dict[str, Any]]:
    """The best checkpoint of a run, or the newest that has the weights of ``model``, and what it holds."""
    folder, wanted = _checkpoints(cfg), model.state_dict()

    def check(payload: Mapping[str, Any], path: Path) -> None:
        _check_fit(wanted, _state(payload), path)

    if folder.best.exists():
        best = read_checkpoint(folder.best)
        check(best, folder.best)
        return folder.best, best
    newest = folder.newest(check=check)
    if newest is None:
        raise ConvbodyError(
            f"no checkpoint in {folder.folder}; train first, set OUTPUT_DIR to a trained run, or name a file "
            f"of trained weights in {KEY}"
        )
    for _, reason in newest.passed_over:
        logger.warning("%s; using %s instead", reason, newest.path)
    return newest.path, newest.payload


def _check_fit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    odd = sorted(wanted.keys() ^ found.keys())
    odd += [name for name in wanted if name in found and wanted[name].shape != found[name].shape]
    if odd:
        raise MisfitError(
            f"{path} is of another model: {len(odd)} tensors differ, such as {odd[0]}; use the config it "
            f"was trained with ({path.parent.parent / 'config.yaml'})"
        )
