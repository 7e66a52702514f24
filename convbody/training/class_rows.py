"""Weights of another set of classes: what belongs to a class goes where the class of the same name is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from convbody.data.classes import ClassNames, labels_by_name, listed

#: What outputs are of, which is how files call the lists of their names, too.
CLASSES, KEYPOINTS = "classes", "keypoints"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassRows:
    """How the entries of a tensor along one axis belong to classes.

    They come in ``groups``, one after the other; in each are those of the background, where there is one,
    and of each class in the order of labels, ``width`` entries each.
    """

    axis: int = 0
    width: int = 1
    groups: int = 1
    background: bool = False
    of: str = CLASSES

    def count(self, tensor: Tensor) -> int:
        """Of how many classes ``tensor`` is; 0 where its size does not tell."""
        if tensor.dim() <= self.axis:
            return 0
        entries, rest = divmod(tensor.shape[self.axis], self.width * self.groups)
        return 0 if rest else entries - self.background

    def by_class(self, tensor: Tensor) -> Tensor:
        """A view (groups, background and classes, width, ...) of ``tensor``."""
        return tensor.movedim(self.axis, 0).unflatten(0, (self.groups, -1, self.width))


def layer_rows(layer: str, rows: ClassRows) -> dict[str, ClassRows]:
    """The rows of a layer's weight and bias."""
    return {f"{layer}.weight": rows, f"{layer}.bias": rows}


def class_rows(model: nn.Module) -> dict[str, ClassRows]:
    """The tensors of ``model`` that belong to classes: those that its modules list in ``class_rows``."""
    found: dict[str, ClassRows] = {}
    for path, module in model.named_modules():
        for name, rows in getattr(module, "class_rows", {}).items():
            found[f"{path}.{name}" if path else name] = rows
    return found


class ByName:
    """What ``load_weights`` takes as ``adapt``: entries of the classes that a file has too come from it.

    The entries of other classes stay as they are in the model. Weights whose classes have no known names are
    taken as they are.

    Args:
        rows: the tensors that belong to classes.
        ours: their names, by what they are of.
        assumed: (of, number of classes, lineage) -> the names in files that do not tell; None: not known.
    """

    def __init__(
        self,
        rows: Mapping[str, ClassRows],
        ours: Mapping[str, ClassNames],
        assumed: Callable[[str, int, str], ClassNames | None] = lambda of, count, lineage: None,
    ) -> None:
        self._rows, self._ours, self._assumed = rows, ours, assumed
        self._theirs: dict[str, ClassNames] = {}

    def __call__(
        self, name: str, tensor: Tensor, own: Tensor, notes: Mapping[str, ClassNames], lineage: str
    ) -> Tensor:
        rows = self._rows.get(name)
        if rows is None or rows.of not in self._ours or not _alike(tensor, own, rows):
            return tensor
        ours, count = self._ours[rows.of], rows.count(tensor)
        theirs = notes.get(rows.of)
        if theirs is None and count != rows.count(own):
            theirs = self._assumed(rows.of, count, lineage)
        if theirs is None or len(theirs) != count or len(ours) != rows.count(own):
            return tensor
        self._theirs[rows.of] = theirs
        return kept_by_name(tensor, own, rows, theirs, ours)

    def report(self, file: str) -> None:
        """Logs both lists of names, where they differ, and what was kept."""
        for of, theirs in self._theirs.items():
            ours = self._ours[of]
            if tuple(theirs) == tuple(ours):
                continue
            common = [name for name in ours if name is not None and name in theirs]
            logger.info(
                "%s has the %s %s, and this run %s: weights of %s are kept, those of the others begin anew",
                file, of, listed(theirs), listed(ours), listed(common),
            )  # fmt: skip


def kept_by_name(
    tensor: Tensor, fresh: Tensor, rows: ClassRows, theirs: ClassNames, ours: ClassNames
) -> Tensor:
    """``fresh`` with the entries that ``tensor`` has of the background and of classes of the same name.

    ``tensor`` is of the classes ``theirs``, ``fresh`` of ``ours``; but for the number of classes their shapes
    are the same.
    """
    result = fresh.clone()
    source, target = rows.by_class(tensor), rows.by_class(result)
    first = int(rows.background)
    target[:, :first] = source[:, :first]
    labels = labels_by_name(theirs, first)
    for name, label in labels_by_name(ours, first).items():
        if name in labels:
            target[:, label] = source[:, labels[name]]
    return result


def _alike(tensor: Tensor, own: Tensor, rows: ClassRows) -> bool:
    """Whether two tensors differ at most in the number of classes."""
    if not (rows.count(tensor) and rows.count(own)):
        return False
    shapes = [list(each.shape) for each in (tensor, own)]
    for shape in shapes:
        shape[rows.axis] = 0
    return shapes[0] == shapes[1]
