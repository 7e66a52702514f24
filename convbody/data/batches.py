"""The training batches of a run, from any of them on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from convbody.data.sampler import BatchPlan
from convbody.training.distributed import device_for, rank, world_size
from registry import Config, ConfigError, ConvbodyError

Sample = TypeVar("Sample")
Batch = TypeVar("Batch")


def numbered_batches(
    cfg: Config,
    dataset: Dataset[Sample | ConvbodyError],
    groups: Sequence[int],
    collate: Callable[[list[Sample]], Batch],
) -> Callable[[int], Iterator[Batch]]:
    """The training batches of this process, as a function of where to start.

    ``batches(n)`` yields without end the batches n, n + 1, ... of the run that ``SEED`` describes. A batch
    depends on the config and its number alone, not on ``n`` or the number of workers. All processes together
    see SOLVER.IMS_PER_BATCH images a batch, of one of the ``groups`` (one for each image). torch's global
    random state is left as it is.

    Raises ConfigError for a batch size that the processes cannot share; ``batches`` raises the errors that
    the data set returns as samples.
    """
    processes = world_size()
    if cfg.SOLVER.IMS_PER_BATCH < 1 or cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ConfigError(
            f"a batch must hold at least one image, and the same number for each of {processes} process(es)",
            "SOLVER.IMS_PER_BATCH",
            cfg,
        )
    to_gpu = device_for(cfg).type == "cuda"
    plan = BatchPlan(groups, cfg.SOLVER.IMS_PER_BATCH, cfg.SEED)

    def batches(start: int) -> Iterator[Batch]:
        loader = DataLoader(
            dataset,
            batch_sampler=plan.batches_from(start, rank(), processes),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            collate_fn=unless_broken(collate),
            pin_memory=to_gpu,  # out of locked pages a GPU copies by itself, while the program goes on
            # Without a generator of its own, a loader draws from the global one for every iterator it makes.
            generator=torch.Generator(),
        )
        yield from raising(loader)

    return batches


def unless_broken(
    collate: Callable[[list[Sample]], Batch],
) -> Callable[[list[Sample | ConvbodyError]], Batch | ConvbodyError]:
    """``collate``, or the first error among the samples: raised in a worker, it would be a long traceback."""
    return partial(_collate_unless_broken, collate)


def raising(batches: Iterable[Batch | ConvbodyError]) -> Iterator[Batch]:
    """The batches, up to the first that is an error."""
    for batch in batches:
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
