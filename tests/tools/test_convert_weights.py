"""The weight converter as a user runs it."""

import subprocess
import sys
from pathlib import Path

import torch

from backbones import build_backbone
from backbones.weights import load_weights
from registry import load_cfg

ROOT = Path(__file__).resolve().parents[2]
NARROW = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8]


def convert_weights(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "convert_weights.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_file_of_one_lineage_becomes_one_of_another(tmp_path):
    cfg = load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "R-50", *NARROW])
    source, target = build_backbone(cfg), build_backbone(cfg)
    state = {**source.body.state_dict(), "fc.weight": torch.zeros(1)}
    torch.save(
        {name.removeprefix("stem."): value for name, value in state.items()}, tmp_path / "resnet50.pth"
    )
    done = convert_weights(tmp_path / "resnet50.pth", tmp_path / "r50.pkl", "--to", "caffe2")
    assert done.returncode == 0, done.stderr
    assert "from names of torchvision to caffe2" in done.stdout
    assert done.stderr == "left out: fc.weight\n"
    assert load_weights(target, tmp_path / "r50.pkl").lineage == "caffe2"
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_a_mistake_is_one_line_and_exit_status_2(tmp_path):
    done = convert_weights(tmp_path / "absent.pth", "x.pth", "--to", "caffe2")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no such weight file") and len(done.stderr.splitlines()) == 1
