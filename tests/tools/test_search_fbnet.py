"""The program as a user runs it: measure, search, derive, in three commands."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convbody.classification.data.prepare.idx import write_mnist

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
DATASETS:
  TRAIN: [noise_train]
  CLASSIFICATION_CATALOG: {noise_train: {layout: mnist, root: noise, split: train}}
DATALOADER: {NUM_WORKERS: 0}
INPUT:
  PIXEL_MEAN: [0.5, 0.5, 0.5]
  PIXEL_STD: [0.3, 0.3, 0.3]
  TO_BGR255: False
  CLASSIFICATION: {SIZE_TRAIN: 8, RANDOM_RESIZED_CROP: {ENABLED: False}}
MODEL: {DEVICE: cpu, CLASSIFIER: {NUM_CLASSES: 10}, FBNET: {ARCH_DIRS: [.]}}
SOLVER: {IMS_PER_BATCH: 4, WARMUP_ITERS: 0, SCHEDULE: cosine, TENSORBOARD: False}
SEARCH:
  SPACE: {FIRST: [8, 2], BLOCKS: [[8, 1, 2]], CANDIDATES: [ir_k3_e1, skip], TRAIN_STRIDES: [1, 1]}
  EPOCHS: 1
  WARMUP_EPOCHS: 0
  LATENCY: {TABLE: table.json}
OUTPUT_DIR: run
"""


@pytest.fixture
def search_fbnet(tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text(CONFIG)
    images = np.random.default_rng(0).integers(0, 255, (20, 8, 8)).astype(np.uint8)
    for split in ("train", "test"):  # a data set in this layout has both
        write_mnist(tmp_path / "noise", split, images, np.arange(20, dtype=np.uint8) % 10)
    monkeypatch.setenv("CONVBODY_DATASETS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(*arguments):
        command = [sys.executable, str(ROOT / "tools" / "search_fbnet.py"), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return run


def test_three_commands(search_fbnet, tmp_path):
    config = ("--config-file", "c.yaml")
    size = ("SEARCH.LATENCY.SIZE", "16")
    measured = search_fbnet("latency", *config, "--size", "16", "--rounds", "1", "--validate")
    assert measured.returncode == 0, measured.stderr
    assert "3 entries in table.json" in measured.stdout and "rank correlation" in measured.stdout
    assert "[########################] 3/3" in measured.stderr
    refused = search_fbnet("train", *config)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "size 16, not 224" in refused.stderr
    trained = search_fbnet("train", *config, *size)
    assert trained.returncode == 0, trained.stderr
    assert "epoch 1/1" in trained.stdout
    derived = search_fbnet("derive", *config, "--hard", "--name", "found", *size)
    assert derived.returncode == 0, derived.stderr
    assert "FBNet-found: expected" in derived.stdout and (tmp_path / "found.yaml").exists()
    again = search_fbnet("derive", *config, "--hard", "--name", "found", *size)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)


def test_a_command_that_does_not_exist(search_fbnet):
    done = search_fbnet("measure")
    assert done.returncode == 2 and "latency" in done.stderr and "derive" in done.stderr


def test_no_rounds_are_no_measurement(search_fbnet):
    done = search_fbnet("latency", "--config-file", "c.yaml", "--rounds", "0")
    assert (done.returncode, done.stderr) == (2, "error: --rounds takes 1 or more\n")
