"""Names, shapes, order, frozen set and numbers of the published models."""

import json
from pathlib import Path

import pytest
import torch
import torchvision

from backbones.layers.deform_conv import DFConv2d
from backbones.resnet.head import ResNetHead, build_res5_head
from backbones.spec import StageSpec
from backbones.weights import load_weights
from registry import load_cfg

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "resnet.json").read_text())
FAST = ("C4", "mdconv", "1x_gn", "USE_C5=False", "freeze/R-50-FPN/5", "dg2", "resnext")


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(r, id=r["id"], marks=() if any(word in r["id"] for word in FAST) else pytest.mark.slow)
        for r in GOLDEN["backbones"]
    ],
)
def test_backbone(published, record):
    backbone = published.build(record["conv_body"], *record["opts"])
    assert published.state_digest(backbone) == record["state"]
    assert sum(p.numel() for p in backbone.parameters()) == record["parameters"]
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == record["trainable"]
    for run in record["runs"]:
        published.fill(backbone, run["damp"])
        with torch.no_grad():
            published.assert_close(backbone(published.image()), run["outputs"])


@pytest.mark.parametrize("record", GOLDEN["deformable"], ids=lambda r: r["id"])
def test_deformable_convolution(published, record):
    conv = DFConv2d(16, 24, **record["args"])
    assert published.state_digest(conv) == record["state"]
    for run in record["runs"]:
        published.fill(conv)
        published.assert_close([conv(published.image(9, 11, 2, 16))], run["outputs"])


@pytest.mark.parametrize("from_cfg", [True, False])
def test_res5_head(published, from_cfg):
    if from_cfg:
        head = build_res5_head(load_cfg(None))
    else:
        head = ResNetHead("BottleneckWithFixedBatchNorm", (StageSpec(4, 3, False),))
    assert published.state_digest(head) == published.res5_head["state"]
    assert head.out_channels == 2048
    for run in published.res5_head["runs"]:
        published.fill(head, run["damp"])
        with torch.no_grad():
            published.assert_close([head(published.image(14, 14, 2, 1024))], run["outputs"])


def test_torchvision_weights_give_torchvision_features(published, tmp_path):
    (run,) = published.torchvision_resnet50["runs"]
    theirs = published.fill(torchvision.models.resnet50(), run["damp"])
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    ours = published.build("R-50", "MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.FROZEN_BN.EPSILON", 1e-5)
    report = load_weights(ours, tmp_path / "resnet50.pth")
    assert report.missing == () and set(report.unexpected) == {"fc.weight", "fc.bias"}
    with torch.no_grad():
        published.assert_close(ours.eval()(published.image()), run["outputs"])
