"""What the fuzz tests share: mutations of trees of plain values, and what counts as a good end."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from torch import Tensor

from registry import ConvbodyError

EXAMPLES = int(os.environ.get("CONVBODY_FUZZ_EXAMPLES", "50"))
#: At least this share of the inputs must be good enough to be used, or the test would only test refusals.
LEAST_USED = 1 / 3

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="CONVBODY_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)

HOSTILE: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**63, 2**70, 10**30, 0.5, -0.0, 1e9, -1e9, 1e308, 1e-320),
    *(
        float("nan"),
        float("inf"),
        "",
        "1",
        "-1",
        "1e3",
        "nan",
        "a",
        "é\n\x00",
        "\ud800",
        "../../x",
        "x" * 5000,
    ),
    *([], {}, [[]], [[[]]], {"a": {}}, [None], [1, 2], [0.0] * 7, {"size": [1, 1], "counts": "0"}),
    *({"size": [64, 64], "counts": [1, 2, 3]}, {"size": [64, 64], "counts": "~~~"}, [[1, 1, 1e9, 1, 1, 1e9]]),
]


@dataclass
class Tally:
    """How many inputs there were, and how many were used rather than refused."""

    tried: int = 0
    used: int = 0

    def run(self, use: Callable[[], Any]) -> Any:
        """What ``use()`` gives; None where it refuses the input in one line. Other errors pass."""
        self.tried += 1
        try:
            result = use()
        except ConvbodyError as error:
            assert "\n" not in str(error).strip() or "data set" in str(error), str(error)
            event("refused")
            return None
        self.used += 1
        event("used")
        return result

    def check(self) -> None:
        assert self.used >= LEAST_USED * self.tried, f"only {self.used} of {self.tried} inputs were used"


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of nested dicts and lists."""
    found: list[tuple[Any, Any]] = []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found.append((tree, key))
        found += places(value)
    return found


@st.composite
def mutated(draw: st.DrawFn, tree: Any, most: int = 3) -> Any:
    """``tree`` with up to ``most`` changes: a value replaced, removed, copied elsewhere, or repeated."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(0, most))):
        spots = places(tree)
        if not spots:
            break
        container, key = draw(st.sampled_from(spots))
        how = draw(st.sampled_from(["replace", "replace", "remove", "copy", "repeat", "scalar"]))
        if how == "remove":
            del container[key]
        elif how == "copy":
            other, other_key = draw(st.sampled_from(spots))
            container[key] = copy.deepcopy(other[other_key])
        elif how == "repeat" and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif how == "scalar":
            container[key] = draw(st.integers() | st.floats() | st.text(max_size=5) | st.none())
        else:
            container[key] = copy.deepcopy(draw(st.sampled_from(HOSTILE)))
    return tree


def changed(tensor: Tensor, how: int) -> Tensor:
    """A tensor of another shape, type or content; ``how`` is 0 to 8."""
    flat = tensor.flatten()
    ways = [flat[:0], tensor.double(), tensor.to(torch.int32), flat, tensor * float("nan"), tensor[None]]
    return [*ways, tensor.bool(), torch.zeros(()), tensor.to(torch.complex64)][how]
