"""A space of four layers, a table for it that is not measured but made up, and images of bars."""

import numpy as np
import pytest

from convbody.classification.data.prepare.idx import write_mnist
from convbody.search.latency import LatencyTable, entries_of, wanted_conditions
from convbody.search.space import space_from_cfg
from registry import load_cfg

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
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.TENSORBOARD": False,
    "SEARCH.SPACE.FIRST": (8, 2),
    "SEARCH.SPACE.BLOCKS": ([8, 1, 1], [16, 3, 2]),
    "SEARCH.SPACE.CANDIDATES": ("ir_k3_e1", "ir_k3_s2", "ir_k5_e3", "skip"),
    "SEARCH.SPACE.TRAIN_STRIDES": (1, 1, 2),
    "SEARCH.LATENCY.SIZE": 32,
    "SEARCH.EPOCHS": 3,
    "SEARCH.WARMUP_EPOCHS": 1,
}


@pytest.fixture
def search_cfg(tmp_path, monkeypatch):
    """``search_cfg({KEY: value})``: a config of the small space, whose table exists."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 20)):
        images = generator.integers(0, 80, (count, SIDE, SIDE)).astype(np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for image, label in zip(images, labels, strict=True):
            (image if label >= 5 else image.T)[label % 5] = 255
        write_mnist(tmp_path / "datasets" / "bars", split, images, labels)
    monkeypatch.setenv("CONVBODY_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.setenv("CONVBODY_ARCHS", str(tmp_path / "archs"))

    def make(changes=None):
        named = {"OUTPUT_DIR": str(tmp_path / "run"), "SEARCH.LATENCY.TABLE": str(tmp_path / "table.json")}
        options = OPTIONS | named | (changes or {})
        return load_cfg(None, [part for pair in options.items() for part in pair])

    made_up_table(make(), tmp_path / "table.json")
    return make


def made_up_table(cfg, path):
    """Larger kernels and wider blocks take longer; the identity takes no time."""
    microseconds = {"first": 20.0, "ir_k3_e1": 30.0, "ir_k3_s2": 25.0, "ir_k5_e3": 120.0, "skip": 10.0}
    conditions = {"device": "cpu", "device_name": "made up", **wanted_conditions(cfg)}
    entries = entries_of(space_from_cfg(cfg))
    LatencyTable(
        conditions, {"versions": {}}, {entry: [microseconds[entry.split()[0]]] for entry in entries}
    ).write(path)
