"""bfloat16 in every family: what multiplies reads and gives bfloat16, weights and gradients stay float32."""

import pytest
import torch
from products import Products

from backbones import build_backbone
from registry import load_cfg

NARROW = ("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 32, "MODEL.GROUP_NORM.NUM_GROUPS", 4)
FAMILIES = {
    "R-18-FPN": (),
    "R-50-FPN": (
        *("MODEL.RESNETS.STAGE_WITH_DCN", (False, True, True, True), "MODEL.FPN.USE_GN", True),
        *("MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    ),
    "R-20-CIFAR-FPN": (),
    "TResNet-M-FPN": (),
    "FBNet": (),
    "timm/resnet18-FPN": (),
}
SLOW = {"R-50-FPN", "TResNet-M-FPN", "timm/resnet18-FPN"}
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in FAMILIES]


def build(name):
    torch.manual_seed(0)
    return build_backbone(load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", name, *NARROW, *FAMILIES[name]]))


@pytest.mark.parametrize("name", NAMES)
def test_under_autocast_nothing_is_multiplied_in_float32(name):
    model, images = build(name), torch.rand(2, 3, 64, 96)
    with Products() as products, torch.autocast("cpu", torch.bfloat16):
        features = model.train()(images)
        torch.stack([feature.float().square().mean() for feature in features]).sum().backward()
    assert {"aten::convolution", "aten::convolution_backward"} <= products.read.keys()
    assert products.read == {name: {torch.bfloat16} for name in products.read}
    assert ("DCN" in str(FAMILIES[name])) == any("deform" in operator for operator in products.read)
    assert all(feature.dtype is torch.bfloat16 for feature in features)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(g.dtype is torch.float32 and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_gives_bfloat16_near_float32(name):
    model, images = build(name).eval(), torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        wanted = model(images)
        with Products() as products, torch.autocast("cpu", torch.bfloat16):
            features = model(images)
    assert products.read == {name: {torch.bfloat16} for name in products.read}
    for feature, exact in zip(features, wanted, strict=True):
        assert feature.dtype is torch.bfloat16
        error = (feature.float() - exact).norm() / exact.norm()
        assert error < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_bfloat16_weights(name):
    with torch.no_grad():
        features = build(name).to(torch.bfloat16).eval()(torch.rand(1, 3, 64, 96, dtype=torch.bfloat16))
    assert all(feature.dtype is torch.bfloat16 for feature in features)
