"""Batches are a function of the config and their number; every image of a test set comes once."""

from itertools import islice

import pytest
import torch
from PIL import Image

from convbody.classification.data import loader
from convbody.data.errors import DataError
from convbody.data.unread import Unread
from registry import ConfigError

AUGMENTED = {
    "INPUT.CLASSIFICATION.RANDOM_RESIZED_CROP.ENABLED": True,
    "INPUT.HORIZONTAL_FLIP_PROB_TRAIN": 0.5,
    "INPUT.VERTICAL_FLIP_PROB_TRAIN": 0.5,
    "INPUT.BRIGHTNESS": 0.4,
    "INPUT.HUE": 0.1,
    "INPUT.CLASSIFICATION.RAND_AUGMENT.ENABLED": True,
}


def train(cfg):
    return loader.train_batches(cfg, loader.open_train_sets(cfg))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_batch_depends_on_its_number_alone(cls_cfg, workers):
    cfg = cls_cfg(AUGMENTED)
    state = torch.get_rng_state()
    whole = list(islice(train(cfg)(0), 8))
    late = list(islice(train(cls_cfg({**AUGMENTED, "DATALOADER.NUM_WORKERS": workers}))(3), 5))
    for (images, labels, names), (others, other_labels, other_names) in zip(whole[3:], late, strict=True):
        assert torch.equal(images, others) and torch.equal(labels, other_labels) and names == other_names
    assert torch.equal(torch.get_rng_state(), state), "the global random state is left alone"
    assert {name for _, _, names in whole[:5] for name in names} == {f"bars_train {n}" for n in range(40)}
    assert not torch.equal(whole[0][0], next(train(cls_cfg({**AUGMENTED, "SEED": 1}))(0))[0])


def test_without_augmentation_images_come_as_they_are(cls_cfg):
    cfg = cls_cfg()
    (bars,) = loader.open_train_sets(cfg)
    images, labels, names = next(train(cfg)(0))
    assert images.dtype == torch.uint8 and images.shape == (8, 1, 8, 8)
    for image, label, name in zip(images, labels.tolist(), names, strict=True):
        index = int(name.split()[1])
        assert torch.equal(image, bars.load(index, 1)) and label == bars.labels[index]


def test_padding_moves_the_image(cls_cfg):
    images, _, names = next(train(cls_cfg({"INPUT.CLASSIFICATION.PAD": 4}))(0))
    plain = loader.open_train_sets(cls_cfg())[0]
    assert images.shape == (8, 1, 8, 8)
    assert any(
        not torch.equal(i, plain.load(int(n.split()[1]), 1)) for i, n in zip(images, names, strict=True)
    )


def test_several_training_sets_are_joined(cls_cfg):
    cfg = cls_cfg({"DATASETS.TRAIN": ["bars_train", "bars_test"], "SOLVER.IMS_PER_BATCH": 60})
    _, _, names = next(train(cfg)(0))
    assert len(set(names)) == 60 and {name.split()[0] for name in names} == {"bars_train", "bars_test"}


@pytest.mark.parametrize(("choice", "dark"), [("auto", False), ("ignore", False), ("apply", True)])
def test_photographs_in_folders_are_turned_where_asked_for(cls_cfg, bars_root, choice, dark):
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    picture = Image.new("L", (8, 8), 255)
    picture.paste(0, (0, 4, 8, 8))
    for kind in ("a", "b"):
        (bars_root / "pets" / kind).mkdir(parents=True)
        picture.save(bars_root / "pets" / kind / "x.png", exif=exif)
    catalog = "DATASETS.CLASSIFICATION_CATALOG.pets"
    options = {f"{catalog}.layout": "folder", f"{catalog}.root": "pets", "DATASETS.TEST": ["pets"]}
    cfg = cls_cfg({**options, "MODEL.CLASSIFIER.NUM_CLASSES": 2, "DATASETS.EXIF": choice})
    (pets,) = loader.open_test_sets(cfg)
    assert (pets.load(0, 1)[0, 0] == 0).all() == dark


def test_pictures_of_any_size_become_the_central_square(cls_cfg, bars_root):
    for kind in ("a", "b"):
        (bars_root / "pets" / kind).mkdir(parents=True)
        Image.new("RGB", (50, 20), (10, 20, 30)).save(bars_root / "pets" / kind / "x.png")
    catalog = "DATASETS.CLASSIFICATION_CATALOG.pets"
    cfg = cls_cfg(
        {
            f"{catalog}.layout": "folder",
            f"{catalog}.root": "pets",
            "DATASETS.TEST": ["pets"],
            "INPUT.PIXEL_MEAN": [0.0] * 3,
            "INPUT.PIXEL_STD": [1.0] * 3,
            "INPUT.CLASSIFICATION.RESIZE_TEST": 12,
            "MODEL.CLASSIFIER.NUM_CLASSES": 2,
        }
    )
    (pets,) = loader.open_test_sets(cfg)
    ((images, labels, _),) = loader.eval_batches(cfg, pets, Unread())
    assert images.shape == (2, 3, 8, 8) and labels.tolist() == [0, 1]
    assert images[0, :, 4, 4].tolist() == [10, 20, 30]
    (bars_root / "pets" / "b" / "x.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"b/x\.png"):
        list(loader.eval_batches(cfg, pets, Unread()))
    cfg.DATASETS.ON_ERROR, unread = "skip", Unread()
    ((images, labels, _),) = loader.eval_batches(cfg, pets, unread)
    assert images.shape == (1, 3, 8, 8) and labels.tolist() == [0]
    assert [name.count("b/x.png") for name in unread.report("the test")] == [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"MODEL.CLASSIFIER.NUM_CLASSES": 9},
            r"'bars_train' has 10 classes, 0 - zero, 1 - one, .* \(MODEL.CLASSIFIER.NUM_CLASSES = 9",
        ),
        ({"DATASETS.TRAIN": ["bars"]}, "nearest: bars_t"),
        ({"SOLVER.IMS_PER_BATCH": 0}, "SOLVER.IMS_PER_BATCH"),
        ({"INPUT.CLASSIFICATION.SIZE_TRAIN": 0}, "INPUT.CLASSIFICATION.SIZE_TRAIN"),
        ({"INPUT.HUE": 0.7}, "INPUT.HUE"),
        (
            {
                "INPUT.CLASSIFICATION.RAND_AUGMENT.ENABLED": True,
                "INPUT.CLASSIFICATION.RAND_AUGMENT.MAGNITUDE": 31,
            },
            "RAND_AUGMENT.MAGNITUDE",
        ),
    ],
)
def test_a_mistake_names_the_key(cls_cfg, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(cls_cfg(changes))


def test_a_test_crop_larger_than_its_image_is_refused(cls_cfg):
    cfg = cls_cfg({"INPUT.CLASSIFICATION.RESIZE_TEST": 7})
    with pytest.raises(ConfigError, match="RESIZE_TEST"):
        next(loader.eval_batches(cfg, loader.open_test_sets(cfg)[0], Unread()))


@pytest.fixture
def pets(bars_root, cls_cfg):
    """``pets({set: classes}, {KEY: value})``: a config with folders that have a picture for each class."""

    def make(sets, changes=None):
        options = {"INPUT.PIXEL_MEAN": [0.0] * 3, "INPUT.PIXEL_STD": [1.0] * 3} | (changes or {})
        for name, classes in sets.items():
            for shade, kind in enumerate(classes):
                (bars_root / name / kind).mkdir(parents=True)
                Image.new("RGB", (8, 8), (10 * shade, 20, 30)).save(bars_root / name / kind / "x.png")
            catalog = f"DATASETS.CLASSIFICATION_CATALOG.{name}"
            options |= {f"{catalog}.layout": "folder", f"{catalog}.root": name}
        return cls_cfg(options)

    return make


def test_a_test_set_may_lack_classes_and_has_the_labels_of_the_training(pets):
    sets = {"train": ["cat", "dog", "fox"], "test": ["dog", "fox"]}
    keys = {"DATASETS.TRAIN": ["train"], "DATASETS.TEST": ["test"], "MODEL.CLASSIFIER.NUM_CLASSES": 3}
    cfg = pets(sets, keys)
    (train,) = loader.open_train_sets(cfg)
    (test,) = loader.open_test_sets(cfg, loader.Known(train.class_names, "train"))
    assert (test.class_names, test.labels) == (("cat", "dog", "fox"), (1, 2))
    assert test.identify(0).endswith("dog/x.png")


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (
            {"train": ["cat", "dog"], "test": ["cow", "dog"]},
            "'test' has the classes cow, dog, .* without cow",
        ),
        ({"train": ["cat", "dog"], "more": ["cat"]}, "'more' has the classes cat, and .* with dog, too"),
    ],
)
def test_classes_are_compared_by_name(pets, sets, words):
    names = {"DATASETS.TRAIN": [name for name in sets if name != "test"], "DATASETS.TEST": ["test"]}
    cfg = pets(sets, {**names, "MODEL.CLASSIFIER.NUM_CLASSES": 2})
    with pytest.raises(ConfigError, match=words):
        train = loader.open_train_sets(cfg)
        loader.open_test_sets(cfg, loader.Known(train[0].class_names, "train"))
