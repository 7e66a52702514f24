"""What became of every tensor when a file was loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backbones.weights.contract import WeightContract


@dataclass(frozen=True)
class LoadReport:
    """Names of tensors by what became of them.

    Attributes:
        file: the file that was read.
        lineage: the code base whose names it has.
        loaded: names in the module that were filled.
        missing: names in the module that the file has nothing for.
        unexpected: names in the file that the module has no place for.
        wrong_shape: both have it, in different shapes: (name, shape in the file, shape in the module).
        contract: what the weights expect of a config; None: nothing is known.
        initialised: names in the module of what predicts the offsets of deformable convolutions, left as they
            were, because the file has plain convolutions in their places.
        notes: lists of names that the file has beside its tensors.
    """

    file: str
    lineage: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    contract: WeightContract | None = None
    initialised: tuple[str, ...] = ()
    notes: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether the file filled all of the module."""
        return not (self.missing or self.wrong_shape or self.initialised)

    def summary(self) -> str:
        """One line: how many were loaded, and the groups of the others."""
        parts = [f"{len(self.loaded)} tensors loaded, in names of {self.lineage}"]
        for title, names in (
            ("missing", self.missing),
            ("offsets left as initialised", self.initialised),
            ("unexpected", self.unexpected),
        ):
            if names:
                parts.append(f"{len(names)} {title}: {', '.join(grouped(names))}")
        if self.wrong_shape:
            name, found, wanted = self.wrong_shape[0]
            parts.append(
                f"{len(self.wrong_shape)} of wrong shape: {name} is {found} in the file, {wanted} here, ..."
            )
        if self.contract is None:
            parts.append("no contract known")
        return "; ".join(parts)

    def __str__(self) -> str:
        return f"{self.file}: {self.summary()}"


def grouped(names: Sequence[str], most: int = 6) -> list[str]:
    """Names by their module, "body.layer4 (60)": the largest groups, then "..." when there are more."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(".".join(name.split(".")[:-1][:3]) or name, []).append(name)
    largest = sorted(groups.items(), key=lambda item: -len(item[1]))
    texts = [f"{group} ({len(held)})" if len(held) > 1 else held[0] for group, held in largest[:most]]
    return texts + ["..."] if len(groups) > most else texts
