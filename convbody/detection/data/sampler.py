"""Which images make up which batch: a pure function of (seed, iteration), so a resumed run needs no other state.

The images fall into groups (landscape and portrait, or all in one). Each group is an endless stream: a new
permutation of its images for every epoch, one after the other. The stream is cut into batches without gaps, so
nothing is dropped or repeated to fill a batch; a batch at the end of an epoch goes on into the next permutation.
Epoch e hands out, in a shuffled order, the batches that the groups complete in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch


class Draw(NamedTuple):
    """One image of a batch, and the seed of its augmentation."""

    image: int
    seed: int


def mix_seed(*numbers: int) -> int:
    """One 64-bit seed out of several numbers; any change of one gives an unrelated seed."""
    words = [number % 2**64 for number in numbers]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def aspect_groups(ratios: Sequence[float]) -> list[int]:
    """The group of each image by its width over height: 0 portrait, 1 square or landscape."""
    return [int(ratio >= 1) for ratio in ratios]


class BatchPlan:
    """The batches of a training run over all processes.

    ``groups`` gives each image's group; ``batch_size`` counts the images of all processes together.
    """

    def __init__(self, groups: Sequence[int], batch_size: int, seed: int) -> None:
        if not len(groups):
            raise ValueError("no images to draw batches from")
        members = np.asarray(groups)
        self.members = [np.flatnonzero(members == group) for group in np.unique(members)]
        self.batch_size, self.seed = batch_size, seed
        # A batch needs at most the permutations of a few epochs; making them again costs the same result.
        self._permutation = lru_cache(maxsize=2 * len(self.members) + 2)(self._permute)
        self._order = lru_cache(maxsize=2)(self._shuffled_batches)

    def batch(self, iteration: int) -> list[Draw]:
        """The global batch of ``iteration``: ``batch_size`` draws, all of one group."""
        epoch = self.epoch_of(iteration)
        group, number = self._order(epoch)[iteration - self._batches_before(epoch)]
        start = number * self.batch_size
        positions = range(start, start + self.batch_size)
        return [
            Draw(self._image(group, position), mix_seed(self.seed, 1, iteration, place))
            for place, position in enumerate(positions)
        ]

    def batches_from(self, iteration: int, rank: int = 0, world_size: int = 1) -> Iterator[list[Draw]]:
        """The batches of one process without end: its share of every global batch from ``iteration`` on.

        The shares of all processes together are the global batch. ``batch_size`` must divide by ``world_size``.
        """
        share = self.batch_size // world_size
        while True:
            yield self.batch(iteration)[rank * share : (rank + 1) * share]
            iteration += 1

    def epoch_of(self, iteration: int) -> int:
        """The epoch in which ``iteration`` is handed out, from 0."""
        total = sum(len(members) for members in self.members)
        epoch = iteration * self.batch_size // total
        while self._batches_before(epoch + 1) <= iteration:
            epoch += 1
        return epoch

    def _batches_before(self, epoch: int) -> int:
        return sum(epoch * len(members) // self.batch_size for members in self.members)

    def _shuffled_batches(self, epoch: int) -> list[tuple[int, int]]:
        batches = [
            (group, number)
            for group, members in enumerate(self.members)
            for number in range(
                epoch * len(members) // self.batch_size, (epoch + 1) * len(members) // self.batch_size
            )
        ]
        return [batches[i] for i in _randperm(len(batches), mix_seed(self.seed, 2, epoch))]

    def _image(self, group: int, position: int) -> int:
        epoch, place = divmod(position, len(self.members[group]))
        return int(self.members[group][self._permutation(group, epoch)[place]])

    def _permute(self, group: int, epoch: int) -> list[int]:
        return _randperm(len(self.members[group]), mix_seed(self.seed, 3, epoch, group))


def _randperm(count: int, seed: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
