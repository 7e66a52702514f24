"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from convbody.training.parallel import local


class ModelEma:
    """``module`` is a copy of a model in eval mode whose state follows the model's.

    After iteration n (the first is 1): average += (1 - d) * (model - average), with
    d = min(decay, (1 + n) / (10 + n)). This rising decay, TensorFlow's ``ExponentialMovingAverage`` given
    ``num_updates``, lets short runs forget their initial weights. Floating-point buffers (running statistics)
    are averaged too, others are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(model).eval().requires_grad_(False)

    def decay_at(self, iteration: int) -> float:
        """The decay used after ``iteration`` iterations."""
        return min(self.decay, (1 + iteration) / (10 + iteration))

    @torch.no_grad()
    def update(self, model: nn.Module, iteration: int) -> None:
        """Move the average towards ``model`` as it is after ``iteration`` iterations."""
        averages: list[Tensor] = []
        targets: list[Tensor] = []
        for average, target in zip(_state(self.module), _state(model), strict=True):
            if average.is_floating_point():
                averages.append(average)
                targets.append(target)
            else:
                average.copy_(target)
        # lerp, not a weighted sum: what does not move in the model does not move by rounding either.
        torch._foreach_lerp_(averages, targets, 1.0 - self.decay_at(iteration))


def _state(model: nn.Module) -> Iterator[Tensor]:
    return map(local, chain(model.parameters(), model.buffers()))
