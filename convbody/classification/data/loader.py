"""From a config to training batches and test batches of labelled images."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from convbody.classification.data.catalog import find_entry
from convbody.classification.data.sets import LabelledImages, open_images
from convbody.classification.data.transforms import eval_transforms, train_transforms
from convbody.classification.model import image_channels
from convbody.data.batches import NumberedBatches, raising, without_unread
from convbody.data.classes import check_known, check_same, listed
from convbody.data.errors import DataError
from convbody.data.sampler import Draw
from convbody.data.unread import Unread, first_readable, skips_unread
from convbody.training.distributed import rank, world_size
from registry import Config, ConfigError, ConvbodyError

#: Images uint8 (N, C, H, W), labels int64 (N,), and what identifies each image.
Batch = tuple[Tensor, Tensor, list[str]]
Sample = tuple[Tensor, int, str]


@dataclass(frozen=True)
class Known:
    """The names of a classifier's classes by label, and in words where they are from, for messages."""

    classes: tuple[str, ...]
    owner: str


def open_train_sets(cfg: Config, known: Known | None = None) -> list[LabelledImages]:
    """The data sets of DATASETS.TRAIN, with the labels of ``known``, or of the first one's classes.

    Raises:
        ConfigError: no or an unknown name, or classes that are not the same in all of them and in
            ``known``, or not as many as NUM_CLASSES.
        DataError: files that are missing or damaged, or that hold labels of no class.
    """
    key = "DATASETS.TRAIN"
    if not cfg.DATASETS.TRAIN:
        raise ConfigError("no data set to train on", key, cfg)
    found: list[LabelledImages] = []
    for name in cfg.DATASETS.TRAIN:
        images = open_images(find_entry(cfg, name, key))
        known = known or Known(images.class_names, f"data set {name!r}")
        check_same(images.class_names, known.classes, f"data set {name!r}", known.owner, key, cfg)
        found.append(images.with_classes(known.classes))
    _check_count(cfg, found[0])
    return found


def open_test_sets(cfg: Config, known: Known | None = None) -> list[LabelledImages]:
    """The data sets of DATASETS.TEST, with the labels of ``known``, of whose classes they may lack some.

    Without it, each has the labels of its own classes. Raises ConfigError and DataError as the training sets.
    """
    key = "DATASETS.TEST"
    found = []
    for name in cfg.DATASETS.TEST:
        images = open_images(find_entry(cfg, name, key))
        if known is not None:
            check_known(images.class_names, known.classes, f"data set {name!r}", known.owner, key, cfg)
            images = images.with_classes(known.classes)
        _check_count(cfg, images)
        found.append(images)
    return found


def _check_count(cfg: Config, images: LabelledImages) -> None:
    if len(images.class_names) != cfg.MODEL.CLASSIFIER.NUM_CLASSES:
        raise ConfigError(
            f"data set {images.name!r} has {len(images.class_names)} classes, {listed(images.class_names)}",
            "MODEL.CLASSIFIER.NUM_CLASSES",
            cfg,
        )


def train_batches(cfg: Config, sets: Sequence[LabelledImages]) -> NumberedBatches[Batch]:
    """The training batches of this process, as :class:`convbody.data.batches.NumberedBatches` has them."""
    dataset = TrainImages(cfg, sets)
    return NumberedBatches(cfg, dataset, [0] * len(dataset), _collate)


def eval_batches(cfg: Config, images: LabelledImages, unread: Unread) -> Iterator[Batch]:
    """This process's share of a test set, once: rank r has images r, r + world size, ...

    Where DATASETS.ON_ERROR says so, ``unread`` receives the images that cannot be read. Otherwise the first
    of them is raised as a DataError.
    """
    skips = skips_unread(cfg)
    loader = DataLoader(
        EvalImages(cfg, images),
        batch_size=max(1, cfg.TEST.IMS_PER_BATCH // world_size()),
        sampler=range(rank(), len(images), world_size()),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=without_unread(_collate),
        generator=torch.Generator(),
    )
    for batch, errors in raising(loader):
        if errors and not skips:
            raise errors[0]
        unread.add(errors)
        if batch is not None:
            yield batch


def first_batch(cfg: Config, images: LabelledImages, count: int) -> Iterator[Batch]:
    """The first ``count`` images of a test set in one batch, read by this process itself."""
    tested = EvalImages(cfg, images)
    yield _collate(first_readable(cfg, (tested[index] for index in range(len(images))), count))


def trial_batch(cfg: Config, sets: Sequence[LabelledImages]) -> Batch:
    """Two training images, or one where a process has but one in a batch, which is no batch of the run."""
    dataset = TrainImages(cfg, sets)
    count = min(2, cfg.SOLVER.IMS_PER_BATCH // world_size())
    samples = (dataset[Draw(index, cfg.SEED)] for index in cycle(range(len(dataset))))
    return _collate(first_readable(cfg, samples, count))


class TrainImages(Dataset[Sample | ConvbodyError]):
    """The images of several data sets, one after the other, each augmented from its own seed."""

    def __init__(self, cfg: Config, sets: Sequence[LabelledImages]) -> None:
        self.sets, self.ends = list(sets), list(accumulate(map(len, sets)))
        if not self.ends or not self.ends[-1]:
            raise ConfigError("no image to train on", "DATASETS.TRAIN", cfg)
        self.channels = image_channels(cfg)
        self.transforms = train_transforms(cfg)

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, draw: Draw) -> Sample | ConvbodyError:
        which = bisect_right(self.ends, draw.image)
        images, index = self.sets[which], draw.image - (self.ends[which - 1] if which else 0)
        try:
            image = images.load(index, self.channels)
        except DataError as error:
            # Raised in a worker, it would reach the user as one traceback inside another.
            return error
        # Only torch's own CPU generator: seeding all devices would disturb the GPU's.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw.seed)
            return self.transforms(image), images.labels[index], images.identify(index)


class EvalImages(Dataset[Sample | ConvbodyError]):
    """The images of a test set as the network sees them."""

    def __init__(self, cfg: Config, images: LabelledImages) -> None:
        self.images, self.channels, self.transforms = images, image_channels(cfg), eval_transforms(cfg)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample | ConvbodyError:
        try:
            image = self.images.load(index, self.channels)
        except DataError as error:
            return error
        return self.transforms(image), self.images.labels[index], self.images.identify(index)


def _collate(samples: list[Sample]) -> Batch:
    images, labels, names = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(labels), list(names)
