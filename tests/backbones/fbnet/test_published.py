"""Names, shapes, order and numbers of the published blocks and trunks."""

import json
from pathlib import Path

import pytest
import torch

from backbones.fbnet.primitives import Shift
from backbones.fbnet.units import UnitOptions
from registry import FBNET_PRIMITIVES

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
