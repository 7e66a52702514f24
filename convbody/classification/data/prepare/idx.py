"""Writing the file format of MNIST (LeCun et al. 1998)."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from convbody.data.files import write_atomically

_UNSIGNED_BYTE = 0x08
_PREFIXES = {"train": "train", "test": "t10k"}


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write a uint8 array: two zero bytes, type, dimensions, sizes as int32, then the values."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, _UNSIGNED_BYTE, values.ndim, *values.shape)
    write_atomically(path, header + np.ascontiguousarray(values, np.uint8).tobytes())


def write_mnist(folder: Path, split: str, images: np.ndarray, labels: np.ndarray) -> list[Path]:
    """Write uint8 images (N, H, W) and labels (N,) of "train" or "test" where torchvision's MNIST looks."""
    paths = mnist_paths(folder / "MNIST", split)
    write_idx(paths[0], images)
    write_idx(paths[1], labels)
    return paths


def mnist_paths(folder: Path, split: str) -> list[Path]:
    """The files of images and of labels under ``folder``, which is called as torchvision's class."""
    return [folder / "raw" / f"{_PREFIXES[split]}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
