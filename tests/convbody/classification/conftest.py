"""Small sets of labelled images, and configs that train on them in seconds."""

import sys
from pathlib import Path

import numpy as np
import pytest

from convbody.classification.data.prepare.idx import write_mnist
from registry import load_cfg

# Other processes import the run by name.
sys.path.insert(0, str(Path(__file__).parent))

SIDE = 8
OPTIONS = {
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.CONV_BODY": "R-20-CIFAR",
    "MODEL.CIFAR_RESNETS.IN_CHANNELS": 1,
    "MODEL.CLASSIFIER.NUM_CLASSES": 10,
    "INPUT.TO_BGR255": False,
    "INPUT.PIXEL_MEAN": [0.5],
    "INPUT.PIXEL_STD": [0.3],
    "INPUT.CLASSIFICATION.SIZE_TRAIN": SIDE,
    "INPUT.CLASSIFICATION.SIZE_TEST": SIDE,
    "INPUT.CLASSIFICATION.RESIZE_TEST": SIDE,
    "INPUT.CLASSIFICATION.RANDOM_RESIZED_CROP.ENABLED": False,
    "INPUT.HORIZONTAL_FLIP_PROB_TRAIN": 0.0,
    "DATASETS.TRAIN": ["bars_train"],
    "DATASETS.TEST": ["bars_test"],
    "DATASETS.CLASSIFICATION_CATALOG.bars_train.layout": "mnist",
    "DATASETS.CLASSIFICATION_CATALOG.bars_train.root": "bars",
    "DATASETS.CLASSIFICATION_CATALOG.bars_train.split": "train",
    "DATASETS.CLASSIFICATION_CATALOG.bars_test.layout": "mnist",
    "DATASETS.CLASSIFICATION_CATALOG.bars_test.root": "bars",
    "DATASETS.CLASSIFICATION_CATALOG.bars_test.split": "test",
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.SCHEDULE": "cosine",
    "SOLVER.BASE_LR": 0.05,
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.MAX_ITER": 4,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.LOG_PERIOD": 2,
    "SOLVER.TENSORBOARD": False,
}


def bars(count, seed):
    """Noise with a bright bar; the class is where: 5 columns, then 5 rows."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 80, (count, SIDE, SIDE)).astype(np.uint8)
    labels = np.arange(count, dtype=np.uint8) % 10
    for image, label in zip(images, labels, strict=True):
        (image if label >= 5 else image.T)[label % 5] = 255
    return images, labels


@pytest.fixture
def bars_root(tmp_path, monkeypatch):
    """The data sets' root, with bars_train and bars_test in it."""
    for split, count, seed in (("train", 40, 0), ("test", 20, 1)):
        write_mnist(tmp_path / "datasets" / "bars", split, *bars(count, seed))
    monkeypatch.setenv("CONVBODY_DATASETS", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


@pytest.fixture
def cls_cfg(bars_root, tmp_path):
    """``cls_cfg({KEY: value})``: a config of four iterations on the bars."""

    def make(changes=None):
        options = OPTIONS | {"OUTPUT_DIR": str(tmp_path / "run")} | (changes or {})
        return load_cfg(None, [part for pair in options.items() for part in pair])

    return make
