"""What is wrong with a data set, by kind: how often, and where the first few are."""

from __future__ import annotations

from dataclasses import dataclass, field

from convbody.data.exif_choice import Orientations
from registry.errors import printable

_EXAMPLES = 3
_LONGEST_EXAMPLE = 160  # characters


@dataclass
class Problem:
    """One kind of mistake: how often it was found, and the first examples of it."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Count one more; only the first few are kept as examples."""
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(shortened(example))

    def __str__(self) -> str:
        return ", ".join([*self.examples, "..."][: min(self.count, len(self.examples) + 1)])


@dataclass
class DatasetReport:
    """Problems by kind, and the positions of the images and annotations of the file that have them."""

    name: str
    image_count: int
    annotation_count: int
    problems: dict[str, Problem] = field(default_factory=dict)
    bad_images: set[int] = field(default_factory=set)
    bad_annotations: set[int] = field(default_factory=set)
    orientations: Orientations = field(default_factory=Orientations)
    """What became of the EXIF orientations of the images, which is no mistake."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems

    @property
    def summary(self) -> str:
        """How many entries have mistakes."""
        return (
            f"data set {self.name!r}: {len(self.bad_images)} of {self.image_count} images and "
            f"{len(self.bad_annotations)} of {self.annotation_count} annotations have mistakes"
        )

    @property
    def kinds(self) -> list[str]:
        """One line for each kind of mistake: its count, and the first examples."""
        return [f"{problem.count} x {kind}: {problem}" for kind, problem in self.problems.items()]

    def __str__(self) -> str:
        return f"{self.summary}: {'; '.join(self.kinds)}"

    def add_image(self, position: int, kind: str, detail: str = "", path: str = "") -> None:
        """Record that image ``position`` of the file has a mistake, at ``path`` inside of its entry."""
        self.problems.setdefault(kind, Problem()).add(_example(f"$.images[{position}]{path}", detail))
        self.bad_images.add(position)

    def add_annotation(self, position: int, kind: str, detail: str = "", path: str = "") -> None:
        """Record that annotation ``position`` has a mistake, at ``path`` inside of its entry."""
        self.problems.setdefault(kind, Problem()).add(_example(f"$.annotations[{position}]{path}", detail))
        self.bad_annotations.add(position)


def shortened(text: str) -> str:
    """``text`` in one line, cut where it is very long."""
    text = printable(text[:_LONGEST_EXAMPLE]) + text[_LONGEST_EXAMPLE:]
    return text if len(text) <= _LONGEST_EXAMPLE else f"{text[: _LONGEST_EXAMPLE - 3]}..."


def _example(path: str, detail: str) -> str:
    return f"{path} ({detail})" if detail else path
