"""A trained detector, ready to use: which weights it has, and what its classes are called."""

from __future__ import annotations

from pathlib import Path

from backbones.weights import deferred_init
from convbody.detection.data.annotations import read_categories
from convbody.detection.data.catalog import catalog, labels_by_id
from convbody.detection.data.labels import classes_of
from convbody.detection.model import Detector, build_detector
from convbody.training.distributed import device_for
from convbody.training.trained import load_trained_weights
from registry import Config


def load_trained(cfg: Config, weights: Path | str | None = None) -> Detector:
    """The detector of ``cfg`` with trained weights, in evaluation mode on its device.

    ``load_trained_weights`` says which: those of ``weights``, of MODEL.WEIGHT, or of the run in OUTPUT_DIR.
    Raises ConvbodyError where there are no weights, or not those of this detector.
    """
    with deferred_init():
        model = build_detector(cfg)
        load_trained_weights(model, cfg, weights)
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
