"""A trained detector, ready to use: which weights it has, and what its classes are called."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from backbones.weights import deferred_init, load_weights
from backbones.weights.contract import WeightContract, check_contract
from backbones.weights.read import CONTRACT
from convbody.detection.data.annotations import read_categories
from convbody.detection.data.catalog import catalog, labels_by_id
from convbody.detection.data.labels import classes_of
from convbody.detection.model import Detector, build_detector
from convbody.training.checkpoint import CheckpointFolder, read_checkpoint
from convbody.training.distributed import device_for
from registry import Config, ConvbodyError

logger = logging.getLogger(__name__)


def load_trained(cfg: Config, weights: Path | str | None = None) -> Detector:
    """The detector of ``cfg`` with trained weights, in evaluation mode on its device.

    ``weights`` is any file that MODEL.WEIGHT may name, as long as it holds all of the detector. Without it,
    the run in OUTPUT_DIR is taken: its best checkpoint, or the newest where none was evaluated.
    Raises ConvbodyError where there are no weights, or not those of this detector.
    """
    with deferred_init():
        model = build_detector(cfg)
        if weights is not None:
            report = load_weights(model, weights)
            if report.missing or report.wrong_shape:
                raise ConvbodyError(
                    f"{report} - not all weights of this detector; use the config they were trained with"
                )
            contract = report.contract
        else:
            weights, state, contract = _run_weights(Path(cfg.OUTPUT_DIR))
            _check_fit(model.state_dict(), state, weights)
            model.load_state_dict(state)
        if contract is not None:
            check_contract(contract, cfg, str(weights))
    logger.info("weights of %s", weights)
    return model.to(device_for(cfg)).eval()


def class_names(cfg: Config) -> list[str]:
    """Names of the classes, label 1 first, from the first data set of the config that is on this machine.

    Empty where none is: then a class has a number only.
    """
    entries = catalog(cfg)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):  # a detector has the labels of its training
        if name in entries and entries[name].ann_file.is_file():
            categories = read_categories(entries[name].ann_file)
            return [name or "unused" for name in classes_of(categories, labels_by_id(cfg))]
    return []


def _run_weights(output_dir: Path) -> tuple[Path, dict[str, Tensor], WeightContract | None]:
    """The file with the weights to use of a run, these, averaged where there is an average, and what they
    expect of a config.
    """
    folder = CheckpointFolder(output_dir / "checkpoints", keep=0)
    if folder.best.exists():
        return _used(folder.best, read_checkpoint(folder.best))
    newest = folder.newest_readable()
    if newest is None:
        raise ConvbodyError(
            f"no checkpoint in {folder.folder}; train first, set OUTPUT_DIR to a trained run, or give "
            "--weights"
        )
    return _used(*newest)


def _used(path: Path, payload: dict[str, Any]) -> tuple[Path, dict[str, Tensor], WeightContract | None]:
    record = payload.get(CONTRACT)
    return (
        path,
        payload.get("ema") or payload["model"],
        WeightContract.from_record(record) if record is not None else None,
    )


def _check_fit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    odd = sorted(wanted.keys() ^ found.keys())
    odd += [name for name in wanted if name in found and wanted[name].shape != found[name].shape]
    if odd:
        raise ConvbodyError(
            f"{path} is of another detector: {len(odd)} tensors differ, such as {odd[0]}; use the config it "
            f"was trained with ({path.parent.parent / 'config.yaml'})"
        )
