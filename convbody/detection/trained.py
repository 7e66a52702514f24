"""A trained detector, ready to use: which weights it has, and what its classes are called."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from backbones.weights import deferred_init
from convbody.detection.coco_names import assumed_names
from convbody.detection.data import Known
from convbody.detection.data.catalog import catalog, labels_by_id
from convbody.detection.data.category_entries import categories_of
from convbody.detection.data.labels import classes_of, shown
from convbody.detection.model import Detector, build_detector
from convbody.training.class_rows import CLASSES
from convbody.training.distributed import device_for
from convbody.training.trained import TrainedWeights, load_trained_weights
from registry import Config, ConfigError


class Trained(NamedTuple):
    """A detector in evaluation mode on its device, and where its weights are from."""

    model: Detector
    weights: TrainedWeights

    @property
    def known(self) -> Known | None:
        """The classes and keypoints that the weights' file records; None where it does not."""
        if self.model.needs.num_classes is None:
            return None
        return Known.of(self.weights.notes, self.weights.file)


def load_trained(cfg: Config, weights: Path | str | None = None) -> Trained:
    """The detector of ``cfg`` with trained weights.

    ``load_trained_weights`` says which: those of ``weights``, of MODEL.WEIGHT, or of the run in OUTPUT_DIR.
    Raises ConvbodyError where there are no weights, or not those of this detector.
    """
    with deferred_init():
        model = build_detector(cfg)
        used = load_trained_weights(model, cfg, weights)
    classes, count = used.notes.get(CLASSES), model.needs.num_classes
    if classes is not None and count is not None and len(classes) != count - 1:
        raise ConfigError(f"{used.file} names {len(classes)} classes and has weights of {count - 1}")
    return Trained(model.to(device_for(cfg)).eval(), used)


def class_names(cfg: Config, trained: Trained) -> list[str]:
    """Names of a detector's classes, label 1 first.

    They are those of the weights' file; without it, of the first data set of the config that is on this
    machine; and those of COCO, where a published file has as many. Otherwise empty: then a class has a number
    only.
    """
    if trained.known is not None:
        return shown(trained.known.classes)
    entries = catalog(cfg)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):  # a detector has the labels of its training
        if name in entries and entries[name].ann_file.is_file():
            return shown(classes_of(categories_of(entries[name].ann_file), labels_by_id(cfg)))
    count = trained.model.needs.num_classes
    return shown(assumed_names(CLASSES, count - 1, trained.weights.lineage) or () if count else ())
