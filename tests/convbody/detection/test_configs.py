"""Every shipped training config builds the detector that it promises, which takes an image."""

import re
from pathlib import Path

import pytest
import torch

from convbody.detection import build_detector
from registry import load_cfg

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "configs").rglob("*.yaml")
    if path.stem != "base" and path.parent.name not in ("classification", "search")
)


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS)
def test_a_shipped_config_builds_and_runs(path):
    torch.manual_seed(0)
    # Neither downloads nor large images: what is checked is that the keys fit each other.
    opts = ["MODEL.TIMM.PRETRAINED", False, "MODEL.WEIGHT", "", "INPUT.MIN_SIZE_TEST", 96]
    opts += ["TEST.BBOX_AUG.SCALES", (64,), "MODEL.RPN.POST_NMS_TOP_N_TEST", 50]
    model = build_detector(load_cfg(ROOT / path, opts)).eval()
    with torch.no_grad():
        found = model([torch.rand(3, 96, 128)])[0]
    assert found["boxes"].shape[1] == 4 and len(found["boxes"]) == len(found["scores"])
    assert ("masks" in found) == ("mask_rcnn" in path)
    assert ("keypoints" in found) == ("keypoint" in path)


@pytest.mark.parametrize("path", CONFIGS)
def test_a_shipped_config_is_short(path):
    assert len((ROOT / path).read_text().splitlines()) <= 30, "_BASE_ holds what configs share"


def test_the_table_names_every_file():
    table = (ROOT / "configs" / "README.md").read_text()
    named = {f"configs/{name}" for name in re.findall(r"`([\w/]+\.yaml)`", table)}
    assert set(CONFIGS) - named == set()
