"""The two disjoint parts of the training images, and which step trains on which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convbody.classification.data.sets import LabelledImages
from convbody.data.sampler import mix_seed
from registry import Config, ConfigError


class Part(LabelledImages):
    """Some pictures of a data set."""

    def __init__(self, images: LabelledImages, indices: Sequence[int]) -> None:
        super().__init__(images.name, images.class_names, [images.labels[index] for index in indices])
        self._images, self.indices = images, tuple(indices)

    @property
    def sizes(self) -> str:
        """As the data set's."""
        return self._images.sizes

    def load(self, index: int, channels: int) -> Tensor:
        """As the data set's."""
        return self._images.load(self.indices[index], channels)

    def identify(self, index: int) -> str:
        """As the data set's, by the number there."""
        return self._images.identify(self.indices[index])

    def _read(self, index: int) -> Tensor:
        return self._images.load(self.indices[index], 3)


def split(cfg: Config, sets: Sequence[LabelledImages]) -> tuple[list[Part], list[Part]]:
    """The images for weights, SEARCH.WEIGHT_SHARE of each data set, and the others, for the choice.

    Which are which depends on SEED alone. Raises ConfigError where a part would be empty.
    """
    parts: tuple[list[Part], list[Part]] = ([], [])
    for number, images in enumerate(sets):
        generator = torch.Generator().manual_seed(mix_seed(cfg.SEED, 4, number) % 2**63)
        order = torch.randperm(len(images), generator=generator).tolist()
        cut = round(len(images) * cfg.SEARCH.WEIGHT_SHARE)
        if not 0 < cut < len(images):
            raise ConfigError(
                f"of the {len(images)} images of {images.name}, {cut} would train weights",
                "SEARCH.WEIGHT_SHARE",
                cfg,
            )
        for part, chosen in zip(parts, (order[:cut], order[cut:]), strict=True):
            part.append(Part(images, sorted(chosen)))
    return parts


@dataclass(frozen=True)
class Moment:
    """What step of a search it is.

    Attributes:
        epoch: from 0.
        trains_theta: whether the step trains the choice, not weights.
        number: of the batch, among those of its part.
    """

    epoch: int
    trains_theta: bool
    number: int


@dataclass(frozen=True)
class Timetable:
    """Epochs of weight steps and, after the first ones, of as many choice steps as its images allow."""

    epochs: int
    warmup: int
    weight_steps: int
    theta_steps: int

    @property
    def total(self) -> int:
        """Steps of the whole search."""
        return self.steps_before(self.epochs)

    def steps_before(self, epoch: int) -> int:
        """Steps of the epochs before ``epoch``."""
        return epoch * self.weight_steps + max(epoch - self.warmup, 0) * self.theta_steps

    def at(self, step: int) -> Moment:
        """What step ``step`` does, from 0."""
        epoch = next(epoch for epoch in range(self.epochs) if step < self.steps_before(epoch + 1))
        within = step - self.steps_before(epoch)
        if within < self.weight_steps:
            return Moment(epoch, False, epoch * self.weight_steps + within)
        return Moment(epoch, True, (epoch - self.warmup) * self.theta_steps + within - self.weight_steps)


def timetable(cfg: Config, weight_images: int, theta_images: int) -> Timetable:
    """The timetable of SEARCH for so many images of each part.

    Raises:
        ConfigError: no epoch, more warm-up than epochs, or a part of less than one batch.
    """
    node, batch = cfg.SEARCH, cfg.SOLVER.IMS_PER_BATCH
    if node.EPOCHS < 1:
        raise ConfigError("at least 1 epoch is needed", "SEARCH.EPOCHS", cfg)
    if not 0 <= node.WARMUP_EPOCHS <= node.EPOCHS:
        raise ConfigError(f"0 to SEARCH.EPOCHS, {node.EPOCHS}", "SEARCH.WARMUP_EPOCHS", cfg)
    if min(weight_images, theta_images) < batch:
        raise ConfigError(
            f"a batch is more than the {min(weight_images, theta_images)} images of a part",
            "SOLVER.IMS_PER_BATCH",
            cfg,
        )
    return Timetable(node.EPOCHS, node.WARMUP_EPOCHS, weight_images // batch, theta_images // batch)
