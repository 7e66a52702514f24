"""Small images of bars in ten classes, as a data set, and a config that reads them."""

from pathlib import Path

import numpy as np

from convbody.classification.data.prepare.idx import write_mnist

SIDE = 8
OPTIONS = {
    "MODEL.DEVICE": "cpu",
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
    "SOLVER.BASE_LR": 0.05,
    "SOLVER.SCHEDULE": "cosine",
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.TENSORBOARD": False,
}


def bars(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright bar; the class is where: 5 columns, then 5 rows."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 80, (count, SIDE, SIDE)).astype(np.uint8)
    labels = np.arange(count, dtype=np.uint8) % 10
    for image, label in zip(images, labels, strict=True):
        (image if label >= 5 else image.T)[label % 5] = 255
    return images, labels


def write_bars(root: Path) -> None:
    """bars_train, of 40 images, and bars_test, of 20, below the data sets' root."""
    for split, count, seed in (("train", 40, 0), ("test", 20, 1)):
        write_mnist(root / "bars", split, *bars(count, seed))
