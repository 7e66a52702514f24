"""What the tests of the data pipeline share: small data sets on disk, and configs that name them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convbody.detection.data import make_synthetic
from registry import Config, load_cfg

MakeDataset = Callable[..., Path]


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twelve synthetic images of 64 pixels; ``annotations.json`` and ``images`` are in it."""
    folder = tmp_path_factory.mktemp("shapes")
    make_synthetic(folder, images=12, size=64, seed=5)
    return folder


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Writes images of given (width, height), ids from 1 and a COCO file, whose path it gives."""

    def make(
        annotations: list[dict[str, Any]],
        sizes: tuple[tuple[int, int], ...] = ((40, 30),),
        categories: list[dict[str, Any]] | None = None,
        folder: str = "data",
    ) -> Path:
        root = tmp_path / folder
        (root / "images").mkdir(parents=True)
        rng = np.random.default_rng(0)
        images = []
        for number, (width, height) in enumerate(sizes, start=1):
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        data = {
            "images": images,
            "annotations": [{"id": i, **annotation} for i, annotation in enumerate(annotations, start=1)],
            "categories": categories or [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        }
        (root / "ann.json").write_text(json.dumps(data))
        return root / "ann.json"

    return make


@pytest.fixture
def cfg_for() -> Callable[..., Config]:
    """A config that trains on, and tests with, the data set called ``mine``; further keys as pairs."""

    def build(image_dir: Path, ann_file: Path, *opts: Any) -> Config:
        keys = [
            "DATASETS.CATALOG.mine.image_dir",
            str(image_dir),
            "DATASETS.CATALOG.mine.ann_file",
            str(ann_file),
        ]
        keys += ["DATASETS.TRAIN", ("mine",), "DATALOADER.NUM_WORKERS", 0]
        keys += ["INPUT.MIN_SIZE_TRAIN", (64,), "SOLVER.IMS_PER_BATCH", 4]
        return load_cfg(None, [*keys, *opts])

    return build
