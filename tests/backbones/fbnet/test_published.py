"""Names, shapes, order and numbers of the published blocks, trunks and heads."""

import json
from pathlib import Path

import pytest
import torch

from backbones.fbnet.primitives import Shift
from backbones.fbnet.units import UnitOptions
from convbody.detection.heads.registries import BOX_FEATURE_EXTRACTORS, RPN_HEADS
from registry import FBNET_PRIMITIVES, load_cfg

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "fbnet.json").read_text())


def test_there_are_as_many_as_published():
    assert len(FBNET_PRIMITIVES) == 39


@pytest.mark.parametrize("record", GOLDEN["primitives"], ids=lambda r: f"{r['name']}/{r['stride']}")
def test_primitive(published, record):
    block = FBNET_PRIMITIVES[record["name"]].build(*record["widths"], 6, record["stride"], UnitOptions())
    kernels = {name: m.kernel.clone() for name, m in block.named_modules() if isinstance(m, Shift)}
    assert published.state_digest(block) == record["state"]
    published.fill(block)
    for name, kernel in kernels.items():
        block.get_submodule(name).kernel.copy_(kernel)
    with torch.no_grad():
        published.assert_close([block(published.image(14, 14, 2, record["widths"][0]))], record["outputs"])


@pytest.mark.parametrize("record", GOLDEN["trunks"], ids=lambda r: r["arch"])
def test_trunk(published, record):
    backbone = published.build("FBNet", "MODEL.FBNET.ARCH", record["arch"])
    assert published.state_digest(backbone) == record["state"]
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == record["parameters"]
    assert backbone.strides == (16,) and backbone.out_channels == record["outputs"][0]["shape"][1]
    published.fill(backbone)
    with torch.no_grad():
        published.assert_close(backbone(published.image()), record["outputs"])
        pyramid = published.build(f"FBNet-{record['arch']}-C4")
        published.assert_close(published.fill(pyramid)(published.image()), record["outputs"])


@pytest.mark.parametrize("record", GOLDEN["heads"], ids=lambda r: r["name"])
def test_head(published, record):
    cfg = load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "FBNet"])
    count, height, width = record["input"]
    x = published.image(height, width, count, record["in_channels"])
    if record["anchors"]:
        head = RPN_HEADS[record["name"]](cfg, record["in_channels"], record["anchors"])
    else:
        head = BOX_FEATURE_EXTRACTORS[record["name"]](cfg, record["in_channels"], height)
    assert published.state_digest(head) == record["state"]
    assert sum(p.numel() for p in head.parameters()) == record["parameters"]
    published.fill(head)
    with torch.no_grad():
        outputs = [out for maps in head([x]) for out in maps] if record["anchors"] else [head(x)]
    published.assert_close(outputs, record["outputs"])
