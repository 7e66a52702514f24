"""Which images make up which batch: a pure function of (seed, batch number), the only state to resume from.

The images fall into groups (landscape and portrait, or all in one). Each group is an endless stream: a new
permutation of its images for every epoch, one after the other. The stream is cut into batches without gaps,
so nothing is dropped or repeated to fill a batch; a batch at the end of an epoch goes on into the next
permutation. Epoch e hands out, in a shuffled order, the batches that the groups complete in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch


class Draw(NamedTuple):
    """One image of a batch by its index, and the seed of its augmentation."""

    image: int
    seed: int


def mix_seed(*numbers: int) -> int:
    """One 64-bit seed out of several numbers; a change of any of them gives an unrelated seed."""
    words = [number % 2**64 for number in numbers]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def aspect_groups(ratios: Sequence[float]) -> list[int]:
    """The group of each image by its width over height: 0 portrait, 1 square or landscape."""
    return [int(ratio >= 1) for ratio in ratios]


class BatchPlan:
    """The batches of a training run over all processes, numbered from 0.

    ``groups`` gives each image's group; ``batch_size`` counts the images of all processes together.
    """

    def __init__(self, groups: Sequence[int], batch_size: int, seed: int) -> None:
        if not len(groups):
            raise ValueError("no images to draw batches from")
        group_of = np.asarray(groups)
        self.members = [np.flatnonzero(group_of == group) for group in np.unique(group_of)]
        self.batch_size, self.seed = batch_size, seed
        # Neighbouring batches need the same few permutations.
        self._permutation = lru_cache(maxsize=4 * len(self.members))(self._permute)
        self._schedule = lru_cache(maxsize=2)(self._make_schedule)

    def batch(self, number: int) -> list[Draw]:
        """The global batch ``number``: ``batch_size`` draws, all of one group."""
        epoch = self.epoch_of(number)
        group, piece = self._schedule(epoch)[number - self._batches_before(epoch)]
        start = piece * self.batch_size
        return [
            Draw(self._image(group, start + place), mix_seed(self.seed, 1, number, place))
            for place in range(self.batch_size)
        ]

    def batches_from(self, number: int, rank: int = 0, world_size: int = 1) -> Iterator[list[Draw]]:
        """One process's share of the batches ``number``, ``number + 1``, ... without end.

        The shares of all processes together are the global batch; ``world_size`` divides ``batch_size``.
        """
        share = self.batch_size // world_size
        while True:
            yield self.batch(number)[rank * share : (rank + 1) * share]
            number += 1

    def epoch_of(self, number: int) -> int:
        """The epoch, from 0, that hands out batch ``number``."""
        # Groups round down to whole batches, so this many epochs have at most ``number`` batches.
        epoch = number * self.batch_size // sum(len(members) for members in self.members)
        while self._batches_before(epoch + 1) <= number:
            epoch += 1
        return epoch

    def _batches_before(self, epoch: int) -> int:
        return sum(self._completed(len(members), epoch) for members in self.members)

    def _completed(self, size: int, epochs: int) -> int:
        """How many batches a group of ``size`` images completes in its first ``epochs`` epochs."""
        return epochs * size // self.batch_size

    def _make_schedule(self, epoch: int) -> list[tuple[int, int]]:
        """The batches of an epoch in order, each as its group and its place in the group's stream."""
        batches = [
            (group, piece)
            for group, members in enumerate(self.members)
            for piece in range(self._completed(len(members), epoch), self._completed(len(members), epoch + 1))
        ]
        return [batches[i] for i in _shuffled(len(batches), mix_seed(self.seed, 2, epoch))]

    def _image(self, group: int, position: int) -> int:
        epoch, place = divmod(position, len(self.members[group]))
        return int(self.members[group][self._permutation(group, epoch)[place]])

    def _permute(self, group: int, epoch: int) -> list[int]:
        return _shuffled(len(self.members[group]), mix_seed(self.seed, 3, epoch, group))


def _shuffled(count: int, seed: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
