"""From a config to training batches and test batches of labelled images."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from convbody.classification.data.catalog import find_entry
from convbody.classification.data.sets import LabelledImages, open_images
from convbody.classification.data.transforms import eval_transforms, train_transforms
from convbody.classification.model import image_channels
from convbody.data.errors import DataError
from convbody.data.sampler import BatchPlan, Draw
from convbody.training.distributed import device_for, rank, world_size
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


def train_batches(cfg: Config, sets: Sequence[LabelledImages]) -> Callable[[int], Iterator[Batch]]:
    """The training batches of this process, as a function of where to start.

    ``batches(n)`` yields without end the batches n, n + 1, ... of the run that ``SEED`` describes. A batch
    depends on the config and its number alone, not on ``n`` or the number of workers. All processes together
    see SOLVER.IMS_PER_BATCH images a batch. torch's global random state is left as it is.
    """
    processes = world_size()
    if cfg.SOLVER.IMS_PER_BATCH < 1 or cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ConfigError(
            f"a batch must hold at least one image, and the same number for each of {processes} process(es)",
            "SOLVER.IMS_PER_BATCH",
            cfg,
        )
    dataset = TrainImages(cfg, sets)
    to_gpu = device_for(cfg).type == "cuda"
    plan = BatchPlan([0] * len(dataset), cfg.SOLVER.IMS_PER_BATCH, cfg.SEED)

    def batches(start: int) -> Iterator[Batch]:
        loader = DataLoader(
            dataset,
            batch_sampler=plan.batches_from(start, rank(), processes),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            collate_fn=_collate,
            pin_memory=to_gpu,  # out of locked pages a GPU copies by itself
            # Without a generator of its own, a loader draws from the global one for every iterator it makes.
            generator=torch.Generator(),
        )
        yield from map(_unless_broken, loader)

    return batches


def eval_batches(cfg: Config, images: LabelledImages) -> Iterator[Batch]:
    """This process's share of a test set, once: rank r has images r, r + world size, ..."""
    loader = DataLoader(
        EvalImages(cfg, images),
        batch_size=max(1, cfg.TEST.IMS_PER_BATCH // world_size()),
        sampler=range(rank(), len(images), world_size()),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=_collate,
        generator=torch.Generator(),
    )
    yield from map(_unless_broken, loader)


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


def _collate(samples: list[Sample | ConvbodyError]) -> Batch | ConvbodyError:
    images, labels, names = [], [], []
    for sample in samples:
        if isinstance(sample, ConvbodyError):
            return sample
        images.append(sample[0])
        labels.append(sample[1])
        names.append(sample[2])
    return torch.stack(images), torch.tensor(labels), names


def _unless_broken(batch: Batch | ConvbodyError) -> Batch:
    if isinstance(batch, ConvbodyError):
        raise batch
    return batch
