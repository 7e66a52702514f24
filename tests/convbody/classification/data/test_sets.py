"""Every layout, and what is said of one that is damaged."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from convbody.classification.data.catalog import Entry, catalog, find_entry
from convbody.classification.data.prepare.idx import write_idx, write_mnist
from convbody.classification.data.sets import open_images
from convbody.data.errors import DataError
from registry import ConfigError, get_cfg, load_cfg


@pytest.fixture
def folder(tmp_path):
    """Two classes of one coloured picture each, of two sizes."""
    for name, colour, size in (("dog", (200, 0, 0), (6, 4)), ("cat", (0, 100, 0), (3, 5))):
        (tmp_path / name).mkdir()
        Image.new("RGB", size, colour).save(tmp_path / name / "a.png")
    return tmp_path


def test_a_folder_for_each_class(folder):
    images = open_images(Entry("pets", "folder", folder))
    assert (images.class_names, images.labels) == (("cat", "dog"), (0, 1))
    assert images.load(1, 3).shape == (3, 4, 6)
    assert images.load(1, 3)[:, 0, 0].tolist() == [200, 0, 0]
    grey = images.load(1, 1)
    assert grey.shape == (1, 4, 6) and grey.dtype == torch.uint8
    assert grey[0, 0, 0] in (59, 60)  # 0.2989 * 200
    assert images.identify(0) == str(folder / "cat" / "a.png")


@pytest.mark.parametrize(("layout", "kind"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_files(tmp_path, layout, kind, split):
    pictures, labels = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5), np.array([7, 0, 9], np.uint8)
    other = "test" if split == "train" else "train"
    write_mnist(tmp_path, split, pictures, labels)
    write_mnist(tmp_path, other, pictures[:1], labels[:1])
    (tmp_path / "MNIST").rename(tmp_path / kind)
    images = open_images(Entry("mine", layout, tmp_path, split))
    assert len(images.class_names) == 10 and images.labels == (7, 0, 9)
    assert images.load(2, 1).tolist() == [pictures[2].tolist()]
    assert images.load(2, 3).tolist() == [pictures[2].tolist()] * 3
    assert images.identify(2) == "mine 2"


@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar_files(tmp_path, split, monkeypatch):
    monkeypatch.setattr(
        datasets.CIFAR10, "_check_integrity", lambda self: True
    )  # these are not the real ones
    monkeypatch.setitem(datasets.CIFAR10.meta, "md5", None)
    base = tmp_path / datasets.CIFAR10.base_folder
    base.mkdir()
    pixels = np.random.default_rng(0).integers(256, size=(2, 3, 32, 32)).astype(np.uint8)
    for name, _ in datasets.CIFAR10.train_list + datasets.CIFAR10.test_list:
        (base / name).write_bytes(pickle.dumps({"data": pixels.reshape(2, -1), "labels": [3, 1]}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {n}" for n in range(10)]}))
    images = open_images(Entry("mine", "cifar10", tmp_path, split))
    assert len(images) == (10 if split == "train" else 2)
    assert images.labels[:2] == (3, 1) and images.class_names[3] == "class 3"
    assert torch.equal(images.load(1, 3), torch.from_numpy(pixels[1]))


def test_what_cannot_be_opened_names_the_folder(tmp_path, folder):
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=f"'pets'.*{folder}.*empty"):
        open_images(Entry("pets", "folder", folder))
    for entry in (
        Entry("none", "folder", tmp_path / "nowhere"),
        Entry("none", "folder", folder / "cat"),
        Entry("none", "cifar100", folder, "train"),
        Entry("none", "mnist", folder, "train"),
    ):
        with pytest.raises(DataError, match="'none'") as caught:
            open_images(entry)
        assert str(entry.root) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_set_that_can_be_made_says_how(tmp_path):
    with pytest.raises(DataError, match=r"prepare_data\.py fashion-mnist"):
        open_images(Entry("fashion_mnist_test", "fashion_mnist", tmp_path / "nowhere", "test"))


def test_labels_of_no_class_and_labels_without_images(tmp_path):
    pictures = np.zeros((2, 4, 4), np.uint8)
    write_mnist(tmp_path, "test", pictures, np.array([1, 2], np.uint8))
    paths = write_mnist(tmp_path, "train", pictures, np.array([1, 10], np.uint8))
    with pytest.raises(DataError, match=r"'mine': 1 of 2 labels are outside 0 to 9, the first is 10"):
        open_images(Entry("mine", "mnist", tmp_path, "train"))
    write_idx(paths[1], np.array([1], np.uint8))
    with pytest.raises(DataError, match="2 images and 1 labels"):
        open_images(Entry("mine", "mnist", tmp_path, "train"))
    paths[0].write_bytes(paths[0].read_bytes()[:20])
    with pytest.raises(DataError, match="'mine' cannot be read as mnist"):
        open_images(Entry("mine", "mnist", tmp_path, "train"))


def test_a_damaged_picture_is_named(folder):
    path = folder / "cat" / "a.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=str(path)):
        open_images(Entry("pets", "folder", folder)).load(0, 3)


def test_names_of_the_catalog(monkeypatch, tmp_path):
    monkeypatch.setenv("CONVBODY_DATASETS", str(tmp_path))
    entries = catalog(get_cfg())
    assert entries["imagenet_val"] == Entry("imagenet_val", "folder", tmp_path / "imagenet" / "val")
    assert entries["cifar100_test"].split == "test"
    with pytest.raises(ConfigError, match="'cifar10_trian'; nearest: cifar10_train.*DATASETS.TRAIN"):
        find_entry(get_cfg(), "cifar10_trian", "DATASETS.TRAIN")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layout": "coco", "root": "a"}, "a layout, one of folder, cifar10"),
        ({"root": "a"}, "a layout"),
        ({"layout": "folder", "root": "a", "split": "train"}, "layout folder needs layout, root"),
        ({"layout": "mnist", "root": "a"}, "needs layout, root, split"),
        ({"layout": "mnist", "root": "a", "split": "val"}, "must be train or test"),
    ],
)
def test_an_entry_with_other_fields_is_refused(fields, message):
    opts = [
        word
        for key, value in fields.items()
        for word in (f"DATASETS.CLASSIFICATION_CATALOG.mine.{key}", value)
    ]
    with pytest.raises(ConfigError, match=message):
        catalog(load_cfg(None, opts))
