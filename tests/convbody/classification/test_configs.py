"""Every shipped config builds its classifier and reads in the table."""

from pathlib import Path

import pytest
import torch

from convbody.classification.data.transforms import eval_transforms, train_transforms
from convbody.classification.loss import target_maker
from convbody.classification.model import build_classifier, image_channels
from registry import load_cfg

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted(path for path in (ROOT / "configs" / "classification").glob("*.yaml") if path.stem != "base")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_makes_a_classifier_of_augmented_images(path):
    cfg = load_cfg(path)
    model = build_classifier(cfg)
    image = torch.randint(256, (image_channels(cfg), 300, 260), dtype=torch.uint8)
    side = cfg.INPUT.CLASSIFICATION.SIZE_TRAIN
    assert train_transforms(cfg)(image).shape == eval_transforms(cfg)(image).shape == (len(image), side, side)
    assert model.fc.out_features == target_maker(cfg)(torch.tensor([0])).shape[1]
    assert (
        cfg.SOLVER.SCHEDULE == "cosine" and cfg.SOLVER.WEIGHT_DECAY_NORM == cfg.SOLVER.WEIGHT_DECAY_BIAS == 0
    )


def test_the_table_names_every_file():
    table = (ROOT / "configs" / "README.md").read_text()
    assert [path.name for path in CONFIGS if f"`classification/{path.name}`" not in table] == []
