"""The training batches of a run, from any of them on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from convbody.data.errors import DataError
from convbody.data.sampler import BatchPlan
from convbody.data.unread import Loaded, Unread, WithSubstitutes, skips_unread
from convbody.data.workers import drawn
from convbody.training.distributed import device_for, rank, world_size
from convbody.training.settings import check_batches
from registry import Config, ConvbodyError

Sample = TypeVar("Sample")
Batch = TypeVar("Batch")


class NumberedBatches(Generic[Batch]):
    """The training batches of this process, as a function of where to start.

    ``batches(n)`` yields without end the batches n, n + 1, ... of the run that ``SEED`` describes. A batch
    depends on the config, its number and the files alone, not on ``n`` or the number of workers. All
    processes together see SOLVER.IMS_PER_BATCH images a batch, of one of the ``groups`` (one for each image).
    torch's global random state is left as it is. An image that cannot be read ends the run, or, with
    DATASETS.ON_ERROR "skip", another of its group takes its place, and ``unread`` has its name.
    """

    def __init__(
        self,
        cfg: Config,
        dataset: Dataset[Sample | ConvbodyError],
        groups: Sequence[int],
        collate: Callable[[list[Sample]], Batch],
    ) -> None:
        """Raises ConfigError for a batch size that the processes cannot share."""
        check_batches(cfg)
        self.unread = Unread()
        self._plan = BatchPlan(groups, cfg.SOLVER.IMS_PER_BATCH, cfg.SEED)
        self._dataset: Dataset[Any] = WithSubstitutes(dataset, groups) if skips_unread(cfg) else dataset
        self._collate = partial(_collate_loaded, collate)
        self._workers = cfg.DATALOADER.NUM_WORKERS
        self._to_gpu = device_for(cfg).type == "cuda"

    def __call__(self, start: int) -> Iterator[Batch]:
        """The batches from number ``start`` on. Raises the errors that the data set returns as samples."""
        loader = DataLoader(
            self._dataset,
            batch_sampler=self._plan.batches_from(start, rank(), world_size()),
            num_workers=self._workers,
            collate_fn=self._collate,
            pin_memory=self._to_gpu,  # the GPU copies from pinned memory while the program goes on
            # Without a generator of its own, a loader draws from the global one for every iterator it makes.
            generator=torch.Generator(),
        )
        for batch, errors in raising(loader):
            self.unread.add(errors)
            yield batch


def unless_broken(
    collate: Callable[[list[Sample]], Batch],
) -> Callable[[list[Sample | ConvbodyError]], Batch | ConvbodyError]:
    """``collate``, or the first error among the samples: raised in a worker, it would be a long traceback."""
    return partial(_collate_unless_broken, collate)


def without_unread(
    collate: Callable[[list[Sample]], Batch],
) -> Callable[[list[Sample | ConvbodyError]], tuple[Batch | None, list[DataError]] | ConvbodyError]:
    """``collate`` of the samples that could be read, None for none of them, and the errors of the others."""
    return partial(_collate_readable, collate)


def raising(batches: Iterable[Batch | ConvbodyError]) -> Iterator[Batch]:
    """The batches of a loader, up to the first that is an error."""
    for batch in drawn(batches):
        if isinstance(batch, ConvbodyError):
            raise batch
        yield batch


def _collate_unless_broken(
    collate: Callable[[list[Sample]], Batch], samples: list[Sample | ConvbodyError]
) -> Batch | ConvbodyError:
    whole = []
    for sample in samples:
        if isinstance(sample, ConvbodyError):
            return sample
        whole.append(sample)
    return collate(whole)


def _collate_readable(
    collate: Callable[[list[Sample]], Batch], samples: list[Sample | ConvbodyError]
) -> tuple[Batch | None, list[DataError]] | ConvbodyError:
    errors = [sample for sample in samples if isinstance(sample, DataError)]
    readable = [sample for sample in samples if not isinstance(sample, DataError)]
    batch = _collate_unless_broken(collate, readable) if readable else None
    return batch if isinstance(batch, ConvbodyError) else (batch, errors)


def _collate_loaded(
    collate: Callable[[list[Sample]], Batch], samples: list[Sample | Loaded[Sample] | ConvbodyError]
) -> tuple[Batch, list[DataError]] | ConvbodyError:
    """The batch, and the errors of images that others took the place of."""
    errors = [error for sample in samples if isinstance(sample, Loaded) for error in sample.errors]
    plain = [sample.sample if isinstance(sample, Loaded) else sample for sample in samples]
    batch = _collate_unless_broken(collate, plain)
    return batch if isinstance(batch, ConvbodyError) else (batch, errors)
