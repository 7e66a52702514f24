"""Files of ImageNet classifiers in detectors whose head is the last stage of the ResNet (C4)."""

import re

import pytest
import torch

from backbones.weights import load_weights
from backbones.weights.write import convert

NAMES = {
    "convbody": "layer4.2.bn3.weight",
    "caffe2": "res5_2_branch2c_bn_s",
    "torchvision": "layer4.2.bn3.weight",
    "detectron2": "res5.2.conv3.norm.weight",
}


@pytest.fixture(scope="module")
def detector(detectors):
    return detectors.build("faster_c4")


def whole_body(detector):
    """Names of a body with stage 4, as in a classifier -> random tensors."""
    state = detector.state_dict()
    body = {re.sub(r"^.*\.(?=stem\.|layer\d\.)", "", name): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in body.items() if name.startswith(("stem.", "layer"))}


@pytest.mark.parametrize("lineage", NAMES)
def test_stage_4_goes_into_the_head(detectors, detector, tmp_path, lineage):
    body = whole_body(detector)
    file = convert(body, lineage).state
    assert NAMES[lineage] in file
    torch.save({**file, "fc.weight": torch.zeros(3, 3)}, tmp_path / "R-50.pth")
    target = detectors.build("faster_c4")
    detectors.fill(target.state_dict(), seed=1)
    report = load_weights(target, tmp_path / "R-50.pth")
    assert report.lineage == lineage and report.unexpected == ("fc.weight",)
    assert {name.split(".")[-2] for name in report.missing} == {"0", "cls_logits", "bbox_pred", "cls_score"}
    loaded = whole_body(target)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in body.items())
    name = "roi_heads.box_head.head.layer4.2.bn3.weight"
    assert torch.equal(target.state_dict()[name], file[NAMES[lineage]])
