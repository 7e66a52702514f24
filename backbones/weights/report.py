"""What became of every tensor when a file was loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LoadReport:
    """Names of tensors by what became of them.

    Attributes:
        file: the file that was read.
        loaded: names in the module that were filled.
        missing: names in the module that the file has nothing for.
        unexpected: names in the file that the module has no place for.
        wrong_shape: both have it, in different shapes: (name, shape in the file, shape in the module).
    """

    file: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def summary(self) -> str:
        """One line: how many were loaded, and the groups of the others."""
        parts = [f"{len(self.loaded)} tensors loaded"]
        for title, names in (("missing", self.missing), ("unexpected", self.unexpected)):
            if names:
                parts.append(f"{len(names)} {title}: {', '.join(grouped(names))}")
        if self.wrong_shape:
            name, found, wanted = self.wrong_shape[0]
            parts.append(
                f"{len(self.wrong_shape)} of wrong shape: {name} is {found} in the file, {wanted} here, ..."
            )
        return "; ".join(parts)

    def __str__(self) -> str:
        return f"{self.file}: {self.summary()}"


def grouped(names: Sequence[str], most: int = 6) -> list[str]:
    """Names by their module, "body.layer4 (60)": the largest groups, then "..." when there are more."""
    counts = Counter(".".join(name.split(".")[:3][: max(1, name.count("."))]) for name in names)
    texts = [f"{group} ({count})" if count > 1 else group for group, count in counts.most_common(most)]
    return texts + ["..."] if len(counts) > most else texts
