"""The comparison runs both starts on the same terms, and repeats nothing."""

from __future__ import annotations

import json

import numpy as np
import pretraining
import pytest

from convbody.classification.data.prepare.idx import write_mnist
from convbody.detection.data import make_synthetic

NARROW = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8, "MODEL.DEVICE", "cpu"]
SHORT = [*NARROW, "SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.TENSORBOARD", False]


def test_the_table_has_every_seed_and_the_mean():
    runs = [
        {"bbox/AP": 0.1, "bbox/AP50": 0.2, "bbox/AR": 1.0},
        {"bbox/AP": 0.3, "bbox/AP50": 0.4, "bbox/AR": 1.0},
    ]
    rows = pretraining.table({"random weights": runs}).splitlines()
    assert rows[2] == "| random weights | 0.200; 0.100, 0.300 | 0.300; 0.200, 0.400 |"


@pytest.mark.slow
def test_a_detector_starts_from_the_body(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVBODY_DATASETS", str(tmp_path))
    for split, count in (("train", 8), ("test", 4)):
        pictures = np.random.default_rng(0).integers(256, size=(count, 28, 28)).astype(np.uint8)
        write_mnist(tmp_path / "fashion_mnist", split, pictures, np.arange(count, dtype=np.uint8))
        make_synthetic(tmp_path / "synthetic" / split, images=3, size=64, seed=0)
    (tmp_path / "fashion_mnist" / "MNIST").rename(tmp_path / "fashion_mnist" / "FashionMNIST")
    body = pretraining.pretrained_body(tmp_path / "body", SHORT)
    written = body.stat().st_mtime_ns
    assert pretraining.pretrained_body(tmp_path / "body", SHORT).stat().st_mtime_ns == written
    metrics = pretraining.detector_metrics(tmp_path / "detector", str(body), 0, SHORT)
    assert set(pretraining.METRICS) <= metrics.keys()
    assert "tensors loaded, in names of convbody" in (tmp_path / "detector" / "log.txt").read_text()
    rows = (tmp_path / "detector" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["iteration"] == 2
