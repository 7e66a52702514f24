"""Images that prove damaged as they are loaded: DATASETS.ON_ERROR "skip" leaves them out and names them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

from convbody.data.errors import DataError
from convbody.data.sampler import Draw, mix_seed
from convbody.training.distributed import all_gather_object, is_main
from registry import Config, ConfigError, ConvbodyError

Sample = TypeVar("Sample")
_KEY = "DATASETS.ON_ERROR"
_TRIES = 100  # images in a row, after which the folder is at fault and not an image

logger = logging.getLogger(__name__)


def skips_unread(cfg: Config) -> bool:
    """Whether DATASETS.ON_ERROR is "skip". Raises ConfigError for what is neither that nor "fail"."""
    if cfg.DATASETS.ON_ERROR not in ("fail", "skip"):
        raise ConfigError("choose one of fail, skip", _KEY, cfg)
    return cfg.DATASETS.ON_ERROR == "skip"


@dataclass(frozen=True)
class Loaded(Generic[Sample]):
    """A sample, and the errors of the images that were tried before it."""

    sample: Sample
    errors: tuple[DataError, ...] = ()


class WithSubstitutes(Dataset[Loaded[Sample] | ConvbodyError]):
    """The samples of ``dataset``, for those that cannot be read others of the same group.

    Which, is drawn from the seed of the draw: a batch is a function of its number and the files, as it is
    without damage. An error is given where 100 images in a row, or a whole group, cannot be read, and for any
    other mistake than a DataError.
    """

    def __init__(self, dataset: Dataset[Sample | ConvbodyError], groups: Sequence[int]) -> None:
        self._dataset, self._groups = dataset, np.asarray(groups)

    def __getitem__(self, draw: Draw) -> Loaded[Sample] | ConvbodyError:
        sample = self._dataset[draw]
        errors: list[DataError] = []
        others = iter(self._others(draw)) if isinstance(sample, DataError) else iter(())
        while isinstance(sample, DataError):
            errors.append(sample)
            other = next(others, None)
            if other is None:
                return DataError(f"{len(errors)} images in a row cannot be read, the last of them: {sample}")
            sample = self._dataset[Draw(other, draw.seed)]
        return sample if isinstance(sample, ConvbodyError) else Loaded(sample, tuple(errors))

    def _others(self, draw: Draw) -> list[int]:
        members = np.flatnonzero(self._groups == self._groups[draw.image])
        generator = torch.Generator().manual_seed(mix_seed(draw.seed, 4))
        order = torch.randperm(len(members), generator=generator)[:_TRIES].tolist()
        return [int(members[place]) for place in order if members[place] != draw.image]


def first_readable(cfg: Config, samples: Iterable[Sample | ConvbodyError], count: int) -> list[Sample]:
    """The first ``count`` samples; without those that cannot be read, where DATASETS.ON_ERROR says so.

    Raises ConvbodyError: the error among the samples, the last of 100 in a row, or that there is no other.
    """
    skips, found, failures = skips_unread(cfg), list[Sample](), 0
    for sample in samples:
        if isinstance(sample, ConvbodyError):
            failures += 1
            if not (skips and isinstance(sample, DataError)) or failures == _TRIES:
                raise sample
            continue
        found.append(sample)
        if len(found) == count:
            break
    if not found:
        raise DataError("no image can be read")
    return found


class Unread:
    """The images that this process has left out, each counted and named once."""

    def __init__(self) -> None:
        self._errors: dict[str, None] = {}

    def add(self, errors: Iterable[DataError]) -> None:
        """Remember the images of ``errors``; a new one is logged."""
        for error in errors:
            if str(error) not in self._errors:
                self._errors[str(error)] = None
                logger.warning("%s; left out, as %s says", error, _KEY)

    def report(self, of: str) -> list[str]:
        """What all processes together have left out ``of`` something, which is logged. All must call it."""
        everything = dict.fromkeys(name for names in all_gather_object([*self._errors]) for name in names)
        if everything and is_main():
            count = f"{len(everything)} image{'s' * (len(everything) > 1)}"
            logger.warning("%s left out of %s, as %s says:\n%s", count, of, _KEY, "\n".join(everything))
        return [*everything]
