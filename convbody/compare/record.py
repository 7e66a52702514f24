"""What is seen of one side: a tensor for every place of a training step, in the order they come about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

#: Name -> tensor. "images" is float (N, C, H, W); a classifier may have "targets" (N, classes); a detector
#: has "targets.<i>.<key>" of each image.
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Place:
    """Where a tensor was seen.

    Attributes:
        phase: "weights", "forward", "loss", "gradients", "step 1", "step 2", ...
        name: of a module, a parameter or buffer, an output or a term of the loss.
        what: "input" or "output" of a module; "value" of anything else.
        call: of a module that is used several times, which use, from 0.
    """

    phase: str
    name: str
    what: str = "value"
    call: int = 0

    def __str__(self) -> str:
        of = "" if self.what == "value" else f" ({self.what})"
        return f"{self.name}{of}" + (f", call {self.call + 1}" if self.call else "")


@dataclass(frozen=True)
class Seen:
    """A tensor in float32, and what rounding does to it.

    Attributes:
        value: the tensor.
        rounding: root mean square of its difference from the same computation in float64; inf where that
            took another course, None where nobody has run it.
        residual: that difference, float64 less float32, where it is known.
    """

    value: Tensor
    rounding: float | None
    residual: Tensor | None = None


@dataclass
class Record:
    """One side of a comparison.

    Attributes:
        label: what the side is, for people.
        loss: how the loss is made: "projection", "cross entropy" or "detector".
        batch: what the model was given.
        places: in the order in which they came about.
        modules: what a module says of itself, by name: kind, kernel, stride, epsilon, ...
        groups: the settings of the optimiser for each parameter, by name.
        facts: versions, seed and config, for people.
        pure: whether nothing in the computation in float64 was done in float32.
    """

    label: str
    loss: str
    batch: Batch
    places: dict[Place, Seen] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    pure: bool = False

    @property
    def steps(self) -> int:
        """How many steps of the optimiser were taken."""
        phases = {place.phase for place in self.places}
        return sum(phase.startswith("step ") for phase in phases)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The parameters and buffers before the first step."""
        return {place.name: seen.value for place, seen in self.places.items() if place.phase == "weights"}
