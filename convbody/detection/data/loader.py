"""From a config to training batches and test data sets."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from convbody.data.batches import NumberedBatches
from convbody.data.classes import ClassNames, check_known, check_same, listed
from convbody.data.errors import DataError
from convbody.data.images import ImageRules
from convbody.data.sampler import Draw, aspect_groups
from convbody.detection.data.catalog import find_dataset, labels_by_id
from convbody.detection.data.check import read_dataset
from convbody.detection.data.coco import CocoDataset, Sample, plain
from convbody.detection.data.geometry import flip_order
from convbody.detection.data.labels import class_names
from convbody.detection.data.transforms import train_transforms
from convbody.detection.inputs import TargetNeeds
from convbody.training.class_rows import CLASSES, KEYPOINTS
from convbody.training.distributed import is_main
from registry import Config, ConfigError, ConvbodyError

Batch = tuple[list[Tensor], list[dict[str, Any]]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """What a detector knows: the names of its classes by label, from 1 on, and of its keypoints.

    ``owner`` says in words where they are from, for messages.
    """

    classes: ClassNames
    keypoints: Sequence[str]
    owner: str

    @classmethod
    def of(cls, notes: Mapping[str, ClassNames], owner: str) -> Known | None:
        """What the lists of names in the file ``owner`` tell; None where it has none of classes."""
        if CLASSES not in notes:
            return None
        return cls(notes[CLASSES], [name or "" for name in notes.get(KEYPOINTS, ())], owner)


def build_test_dataset(cfg: Config, name: str, known: Known | None = None) -> CocoDataset:
    """The checked data set ``name`` for evaluation: every image, in its own size.

    It may have fewer classes than the detector; without ``known``, it has the labels of its own classes.
    Raises ConfigError for an unknown name or for classes or keypoints that are not ``known``, DataError for
    files that are missing or, unless DATASETS.ON_ERROR is "skip", have mistakes.
    """
    dataset = _open(cfg, name, "DATASETS.TEST", known)
    if known is not None:
        _check_keypoints(cfg, name, "DATASETS.TEST", dataset, known)
    return dataset


def open_test_sets(cfg: Config, known: Known | None = None) -> dict[str, CocoDataset]:
    """``build_test_dataset`` of each of DATASETS.TEST, by name. Raises ConfigError where there are none."""
    if not cfg.DATASETS.TEST:
        raise ConfigError("there is no data set to evaluate on; name one", key="DATASETS.TEST", cfg=cfg)
    return {name: build_test_dataset(cfg, name, known) for name in cfg.DATASETS.TEST}


def train_datasets(cfg: Config, known: Known | None = None) -> list[CocoDataset]:
    """The checked data sets of DATASETS.TRAIN, with the labels of ``known``, or of the first one's classes.

    Raises ConfigError where there are none, or where their classes or keypoints are not the same.
    """
    key = "DATASETS.TRAIN"
    if not cfg.DATASETS.TRAIN:
        raise ConfigError("no data set to train on", key=key, cfg=cfg)
    datasets: list[CocoDataset] = []
    for name in cfg.DATASETS.TRAIN:
        dataset = _open(cfg, name, key, known)
        if known is None:
            known = Known(dataset.classes, dataset.keypoint_names, f"data set {name!r}")
        own = [*class_names(dataset.categories).values()]
        check_same(own, known.classes, f"data set {name!r}", known.owner, key, cfg)
        _check_keypoints(cfg, name, key, dataset, known)
        datasets.append(dataset)
    return datasets


def build_train_batches(cfg: Config, dataset: TrainDataset | None = None) -> NumberedBatches[Batch]:
    """The training batches of this process, as :class:`convbody.data.batches.NumberedBatches` has them.

    Each is ``(images, targets)`` as a detector takes them: images float32 (3, H, W), RGB in 0-1, already
    augmented and resized. ``dataset`` is of DATASETS.TRAIN where these have been opened already.
    """
    dataset = dataset or TrainDataset(cfg, train_datasets(cfg))
    groups = dataset.groups(cfg.DATALOADER.ASPECT_RATIO_GROUPING)
    return NumberedBatches(cfg, dataset, groups, collate)


def check_class_count(cfg: Config, needs: TargetNeeds, dataset: CocoDataset) -> None:
    """Raise ConfigError where a detector is made for another number of classes; the background is one."""
    classes = len(dataset.classes)
    if needs.num_classes not in (None, classes + 1):
        raise ConfigError(
            f"{dataset.ann_file} has {classes} classes, {listed(dataset.classes)}, which with the background "
            f"makes {classes + 1}, and the detector is made for {needs.num_classes}",
            key=needs.class_key,
            cfg=cfg,
        )


class TrainDataset(Dataset[Sample | ConvbodyError]):
    """The training images of several data sets, one after the other, each augmented from its own seed."""

    def __init__(self, cfg: Config, datasets: Sequence[CocoDataset]) -> None:
        least_keypoints = cfg.DATASETS.MIN_KEYPOINTS if cfg.MODEL.KEYPOINT_ON else 0
        self.datasets = list(datasets)
        self.kept = [
            np.arange(len(d)) if cfg.DATASETS.KEEP_EMPTY else d.records.with_objects(least_keypoints)
            for d in self.datasets
        ]
        self.ends = list(accumulate(map(len, self.kept)))
        if not len(self):
            raise ConfigError(
                "no image has an object to train on (DATASETS.KEEP_EMPTY True keeps images without)",
                key="DATASETS.TRAIN",
                cfg=cfg,
            )
        self.flip_order = flip_order(self.datasets[0].keypoint_names)
        self.transforms = train_transforms(cfg, self.flip_order)

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, draw: Draw) -> Sample | ConvbodyError:
        dataset, index = self._locate(draw.image)
        try:
            image, target = dataset.load(index, crowd=False)
        except DataError as error:
            # Raised in a worker, it would reach the user as one traceback inside another.
            return error
        # Only torch's own CPU generator: seeding all devices would disturb the GPU's.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw.seed)
            return plain(*self.transforms(image, target))

    def extents(self) -> np.ndarray:
        """(N, 2) int64: width and height of each image in pixels, as the annotations say."""
        parts = zip(self.datasets, self.kept, strict=True)
        return np.concatenate([dataset.records.images.sizes[kept] for dataset, kept in parts])

    def groups(self, by_aspect_ratio: bool) -> list[int]:
        """The group of each image: by aspect ratio, or one for all."""
        if not by_aspect_ratio:
            return [0] * len(self)
        return aspect_groups(
            [d.aspect_ratio(int(i)) for d, kept in zip(self.datasets, self.kept, strict=True) for i in kept]
        )

    def _locate(self, index: int) -> tuple[CocoDataset, int]:
        which = bisect_right(self.ends, index)
        return self.datasets[which], int(self.kept[which][index - self.ends[which]])


def _check_keypoints(cfg: Config, name: str, key: str, dataset: CocoDataset, known: Known) -> None:
    own, wanted = list(dataset.keypoint_names), list(known.keypoints)
    if own != wanted:
        raise ConfigError(
            f"data set {name!r} has the keypoints {listed(own)}, and {known.owner} {listed(wanted)}; name "
            "them alike, in the same order",
            key,
            cfg,
        )


def _open(cfg: Config, name: str, key: str, known: Known | None = None) -> CocoDataset:
    for choice, allowed in (("ON_ERROR", ("fail", "skip")), ("CHECK_IMAGES", ("quick", "full", "none"))):
        if cfg.DATASETS[choice] not in allowed:
            raise ConfigError(f"choose one of {', '.join(allowed)}", key=f"DATASETS.{choice}", cfg=cfg)
    entry = find_dataset(cfg, name, key)
    rules = ImageRules.of(cfg)
    if is_main():
        logger.info("reading %s", entry.ann_file)
    records, report = read_dataset(
        entry.ann_file,
        entry.image_dir,
        name=name,
        how=cfg.DATASETS.CHECK_IMAGES,
        masks=cfg.MODEL.MASK_ON,
        keypoints=cfg.MODEL.KEYPOINT_ON,
        rules=rules,
    )
    if is_main() and str(report.orientations):
        level = logging.WARNING if report.orientations.untold else logging.INFO
        logger.log(level, "data set %r, %s", name, report.orientations)
    if not report.ok:
        if cfg.DATASETS.ON_ERROR == "fail":
            raise DataError(
                f"{report}; fix {entry.ann_file}, or set DATASETS.ON_ERROR skip to leave these out"
            )
        if is_main():
            logger.warning("%s; they are left out, as DATASETS.ON_ERROR says:", report.summary)
            for kind in report.kinds:
                logger.warning("  %s", kind)
    if not len(records.images):
        raise DataError(f"data set {name!r} has no images: {entry.ann_file}")
    if known is not None:
        own = class_names(records.categories)
        check_known([*own.values()], known.classes, f"data set {name!r}", known.owner, key, cfg)
    return CocoDataset(
        entry.image_dir,
        entry.ann_file,
        records=records,
        masks=cfg.MODEL.MASK_ON,
        keypoints=cfg.MODEL.KEYPOINT_ON,
        labels_by_id=labels_by_id(cfg),
        classes=known.classes if known is not None else None,
        rules=rules,
        orientations=report.orientations,
    )


def collate(samples: list[Sample]) -> Batch:
    """The batch of some samples."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)
