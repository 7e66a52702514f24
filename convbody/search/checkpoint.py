"""What the checkpoint of a search holds."""

from __future__ import annotations

import msgspec
from torch import Tensor

from convbody.training.schema import OptimizerState, Resumable


class SpaceRecord(msgspec.Struct, kw_only=True):
    """What was searched, as far as a later program needs it."""

    candidates: list[str]


class SearchCheckpoint(Resumable, kw_only=True):
    """What ``SearchRun.capture`` gives."""

    space: SpaceRecord
    weight_optimizer: OptimizerState
    theta_optimizer: OptimizerState
    beta: float
    sums: list[dict[str, float]]
    gradient: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        theta = self.model.get("theta")
        if theta is None or theta.ndim != 2 or self.gradient.shape != theta.shape:
            raise ValueError("it has no choice among candidates, or a gradient of another one")
        if len(self.sums) != len(self.random):
            raise ValueError("it has sums of other processes than random states")
