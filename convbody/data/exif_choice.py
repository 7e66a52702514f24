"""DATASETS.EXIF over the life of a model: what training did with orientations, and what is done later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convbody.data.images import ImageLook, ImageRules
from convbody.data.orientation import APPLY, AUTO, CHOICES, IGNORE
from registry import Config

#: Where a file of weights records it: the value of DATASETS.EXIF, and what prediction does under "auto".
EXIF = "exif"

Notes = Mapping[str, Sequence[str | None]]


@dataclass
class Orientations:
    """How many images of a data set have an EXIF orientation, and what became of them."""

    turned: int = 0
    """The turned size is the one that the annotations say, or DATASETS.EXIF says so."""
    stored: int = 0
    """Left as they are stored: the annotations' size, or DATASETS.EXIF, says so."""
    untold: int = 0
    """Left as they are stored under "auto", because turning does not change their size."""

    def add(self, look: ImageLook, choice: str) -> None:
        """Count an image that has been looked at under ``choice``."""
        if look.orientation == 1:
            return
        if look.applied != 1:
            self.turned += 1
        elif choice == AUTO and not look.told_by_size:
            self.untold += 1
        else:
            self.stored += 1

    def __add__(self, other: Orientations) -> Orientations:
        return Orientations(
            self.turned + other.turned, self.stored + other.stored, self.untold + other.untold
        )

    def __str__(self) -> str:
        """In one line, "" where no image has an orientation."""
        parts = []
        if self.turned:
            parts.append(f"{self.turned} are turned by it")
        if self.stored:
            parts.append(f"{self.stored} are read as they are stored")
        if self.untold:
            parts.append(
                f"{self.untold} are read as they are stored because half turns, mirror images and squares do "
                "not change the size; if they were turned when they were annotated, set DATASETS.EXIF apply"
            )
        return f"images with an EXIF orientation: {', '.join(parts)}" if parts else ""


def exif_note(choice: str, seen: Orientations) -> list[str]:
    """What weights trained under DATASETS.EXIF ``choice`` record of it.

    Prediction then turns images where most of those whose annotations tell were turned, or where none has
    told anything.
    """
    if choice != AUTO:
        return [choice, choice]
    turns = seen.turned > seen.stored or seen == Orientations()
    return [choice, APPLY if turns else IGNORE]


def unannotated_note(choice: str) -> list[str]:
    """The same for images without annotations, which "auto" leaves as they are stored."""
    return [choice if choice == APPLY else IGNORE] * 2


def for_testing(cfg: Config, notes: Notes) -> Config:
    """``cfg`` for opening test sets: "auto" becomes what weights with ``notes`` were trained under."""
    return _under(cfg, _recorded(notes)[0])


def for_prediction(cfg: Config, notes: Notes) -> ImageRules:
    """How images without annotations are read: "auto" becomes what weights with ``notes`` record."""
    return ImageRules.of(_under(cfg, _recorded(notes)[1]))


def _under(cfg: Config, choice: str) -> Config:
    if cfg.DATASETS.EXIF != AUTO:
        return cfg
    changed = cfg.clone()
    changed.DATASETS.EXIF = choice
    return changed


def _recorded(notes: Notes) -> tuple[str, str]:
    """What is trained under, and what prediction does; "auto" and "apply" where that is not recorded."""
    choice, prediction = [*notes.get(EXIF, ()), None, None][:2]
    if choice in CHOICES and prediction in (APPLY, IGNORE):
        return choice, prediction
    return AUTO, APPLY
