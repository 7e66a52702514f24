"""Opening a data set of labelled images in any layout: uint8 pictures by number, labels and class names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.v2 import functional

from convbody.classification.data.catalog import Entry
from convbody.data.errors import DataError
from convbody.data.files import ROOT_VARIABLE
from convbody.data.images import ImageRules, read_rgb
from registry.errors import in_one_line, printable

_PREPARED = {"fashion_mnist": "fashion-mnist", "digits": "digits", "sklearn_digits": "sklearn-digits"}
_SOURCES: dict[str, Any] = {
    "cifar10": datasets.CIFAR10,
    "cifar100": datasets.CIFAR100,
    "mnist": datasets.MNIST,
    "fashion_mnist": datasets.FashionMNIST,
}


class LabelledImages(ABC):
    """Pictures of one class each.

    Attributes:
        name: of the data set.
        class_names: in the order of labels.
        labels: of each picture, from 0.
    """

    def __init__(self, name: str, class_names: Sequence[str], labels: Sequence[int]) -> None:
        self.name, self.class_names, self.labels = name, tuple(class_names), tuple(labels)
        outside = [label for label in self.labels if not 0 <= label < len(self.class_names)]
        if outside:
            raise DataError(
                f"data set {name!r}: {len(outside)} of {len(self.labels)} labels are outside 0 to "
                f"{len(self.class_names) - 1}, the first is {outside[0]}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def with_classes(self, classes: Sequence[str]) -> LabelledImages:
        """The same pictures with the labels that ``classes``, which have all of this set's, have by name."""
        if tuple(classes) == self.class_names:
            return self
        label_of = {name: label for label, name in enumerate(classes)}
        other = copy(self)
        other.labels = tuple(label_of[self.class_names[label]] for label in self.labels)
        other.class_names = tuple(classes)
        return other

    def load(self, index: int, channels: int) -> Tensor:
        """Picture ``index``, uint8 (channels, H, W): 1 channel is grey, 3 are RGB. Raises DataError."""
        image = self._read(index)
        if channels == 1 and len(image) == 3:
            return functional.rgb_to_grayscale(image)
        return image.expand(channels, -1, -1)

    @property
    @abstractmethod
    def sizes(self) -> str:
        """Width and height of the pictures, pixels, as far as they are known without reading them."""

    @abstractmethod
    def identify(self, index: int) -> str:
        """What tells a person which picture that is."""

    @abstractmethod
    def _read(self, index: int) -> Tensor:
        """uint8 (1 or 3, H, W)."""


class ImagesInMemory(LabelledImages):
    """All pictures in one uint8 tensor (N, 1 or 3, H, W)."""

    def __init__(self, name: str, class_names: Sequence[str], labels: Sequence[int], images: Tensor) -> None:
        super().__init__(name, class_names, labels)
        if len(images) != len(self.labels):
            raise DataError(f"data set {name!r} has {len(images)} images and {len(self.labels)} labels")
        self._images = images

    @property
    def sizes(self) -> str:
        """That of all pictures."""
        return f"{self._images.shape[3]}x{self._images.shape[2]}"

    def identify(self, index: int) -> str:
        """The name of the data set and the number of the picture."""
        return f"{self.name} {index}"

    def _read(self, index: int) -> Tensor:
        return self._images[index]


class ImagesInFolders(LabelledImages):
    """A folder with a folder of image files for each class; classes are in alphabetical order."""

    def __init__(self, name: str, folder: datasets.ImageFolder, rules: ImageRules) -> None:
        super().__init__(name, folder.classes, folder.targets)
        self._rules = rules
        self._paths = [Path(path) for path, _ in folder.samples]

    @property
    def sizes(self) -> str:
        """Not known."""
        return "any"

    def identify(self, index: int) -> str:
        """The path."""
        return printable(str(self._paths[index]))

    def _read(self, index: int) -> Tensor:
        return functional.pil_to_tensor(read_rgb(self._paths[index], self._rules))


def open_images(entry: Entry) -> LabelledImages:
    """The data set of a catalog entry.

    Raises:
        DataError: its folder or files are missing, damaged, or hold labels of no class.
    """
    if not entry.root.is_dir():
        raise DataError(f"data set {entry.name!r}: no folder {entry.root.absolute()}; {_remedy(entry.name)}")
    try:
        if entry.layout == "folder":
            return ImagesInFolders(entry.name, datasets.ImageFolder(str(entry.root)), entry.rules)
        source = _SOURCES[entry.layout](str(entry.root), train=entry.split == "train")
    # What torchvision raises for folders without images and files that are missing, cut short or changed.
    except (OSError, RuntimeError, ValueError, AssertionError, TypeError, EOFError, KeyError) as error:
        raise DataError(
            f"data set {entry.name!r} cannot be read as {entry.layout} from {entry.root.absolute()} "
            f"({_reason(error)}); {_remedy(entry.name)}"
        ) from error
    images = torch.from_numpy(np.asarray(source.data))
    images = images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2)
    return ImagesInMemory(entry.name, source.classes, [int(label) for label in source.targets], images)


def _reason(error: Exception) -> str:
    # torchvision would then have us call it otherwise.
    missing = "download=True" in str(error)
    return "its files are missing, not unpacked, or not the published ones" if missing else in_one_line(error)


def _remedy(name: str) -> str:
    made = _PREPARED.get(name.rpartition("_")[0])
    if made:
        return f"make it with `python tools/prepare_data.py {made}`, or set {ROOT_VARIABLE} to where it is"
    return f"set {ROOT_VARIABLE} to the folder that holds the data sets, or DATASETS.CLASSIFICATION_CATALOG"
