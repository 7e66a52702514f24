"""From a config to training batches and test batches of labelled images."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from convbody.classification.data.catalog import find_entry
from convbody.classification.data.sets import LabelledImages, open_images
from convbody.classification.data.transforms import eval_transforms, train_transforms
from convbody.classification.model import image_channels
from convbody.data.batches import NumberedBatches, raising, without_unread
from convbody.data.errors import DataError
from convbody.data.sampler import Draw
from convbody.data.unread import Unread, skips_unread
from convbody.training.distributed import rank, world_size
from registry import Config, ConfigError, ConvbodyError

#: Images uint8 (N, C, H, W), labels int64 (N,), and what identifies each image.
Batch = tuple[Tensor, Tensor, list[str]]
Sample = tuple[Tensor, int, str]


def open_datasets(cfg: Config, key: str) -> list[LabelledImages]:
    """The data sets that ``key``, DATASETS.TRAIN or DATASETS.TEST, names; all of NUM_CLASSES classes.

    Raises:
        ConfigError: an unknown name, or data sets whose classes differ from each other or from the config.
        DataError: files that are missing or damaged, or that hold labels of no class.
    """
    found = [open_images(find_entry(cfg, name, key)) for name in cfg.DATASETS[key.rpartition(".")[2]]]
    for images in found:
        if images.class_names != found[0].class_names:
            raise ConfigError(f"{images.name} and {found[0].name} have different classes", key, cfg)
        if len(images.class_names) != cfg.MODEL.CLASSIFIER.NUM_CLASSES:
            raise ConfigError(
                f"data set {images.name!r} has {len(images.class_names)} classes",
                "MODEL.CLASSIFIER.NUM_CLASSES",
                cfg,
            )
    return found


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
