"""FBNet's detector under the names of maskrcnn-benchmark."""

import hashlib
import json
from pathlib import Path

import torch

from backbones.weights import load_weights
from backbones.weights.write import convert
from convbody.detection import build_detector
from registry import load_cfg

ROOT = Path(__file__).resolve().parents[4]
GOLDEN = json.loads((ROOT / "tests" / "backbones" / "golden" / "fbnet.json").read_text())["detector"]


def detector():
    return build_detector(load_cfg(ROOT / "configs" / "fbnet" / "faster_rcnn_fbnet.yaml"))


def test_it_has_the_published_names_both_ways(tmp_path):
    model = detector()
    assert sum(p.numel() for p in model.parameters()) == GOLDEN["parameters"]
    theirs = convert(model.state_dict(), "maskrcnn-benchmark").state
    names = "\n".join(sorted(theirs))
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == GOLDEN["names"]
    torch.save({"model": theirs}, tmp_path / "model_final.pth")
    other = detector()
    report = load_weights(other, tmp_path / "model_final.pth")
    assert (report.missing, report.unexpected, report.wrong_shape) == ((), (), ())
    assert report.lineage == "maskrcnn-benchmark"
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
