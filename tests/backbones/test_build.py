import pytest
import torch
from torch import nn

from backbones import Backbone, FeatureInfo, build_backbone
from registry import BACKBONES, BODIES, NECKS, ConfigError, ConvbodyError, load_cfg

SMALL = ("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 32)


class TwoScales(Backbone):
    """A body in a dozen lines."""

    def __init__(self, cfg):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=8, padding=1)
        self.layer1 = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.layer2 = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.feature_info = (FeatureInfo("layer1", 8, 16), FeatureInfo("layer2", 8, 32))

    def forward(self, x):
        fine = self.layer1(self.stem(x))
        return [fine, self.layer2(fine)]


class Halves(nn.Module):
    """A neck: every feature at half its size."""

    def __init__(self, cfg, feature_info):
        super().__init__()
        self.conv = nn.ModuleList(nn.Conv2d(i.channels, 5, 2, stride=2) for i in feature_info)
        self.feature_info = tuple(FeatureInfo(i.name, 5, 2 * i.stride) for i in feature_info)

    def forward(self, features):
        return [conv(f) for conv, f in zip(self.conv, features, strict=True)]


def build(name, *opts):
    return build_backbone(load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", name, *opts]))


@pytest.fixture
def registered(monkeypatch):
    """TwoScales as a body, Halves as a neck, a plain module as a whole, for one test."""
    for registry in (BODIES, NECKS, BACKBONES):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    BODIES.register("Two", TwoScales)
    NECKS.register("HALVES", Halves)
    BACKBONES.register("Two-Whole-C5", TwoScales)
    BACKBONES.register("Plain", lambda cfg: nn.Conv2d(3, 4, 1))


def test_any_body_goes_with_any_neck(registered):
    x = torch.rand(1, 3, 64, 96)
    assert [tuple(f.shape) for f in build("Two-HALVES")(x)] == [(1, 5, 2, 3), (1, 5, 1, 1)]
    assert [f.shape[1] for f in build("R-18-HALVES")(x)] == [5, 5, 5, 5]
    assert [i.stride for i in build("Two-FPN", *SMALL).feature_info] == [16, 32, 64]
    assert [i.name for i in build("Two").feature_info] == ["layer1", "layer2"]


def test_a_name_registered_whole_wins(registered):
    assert isinstance(build("Two-Whole-C5"), TwoScales)


def test_children_are_body_and_neck():
    assert [name for name, _ in build("R-18-FPN", *SMALL).named_children()] == ["body", "fpn"]
    assert [name for name, _ in build("R-18").named_children()] == ["body"]


def test_derived_numbers():
    fpn = build("R-18-FPN-RETINANET", *SMALL)
    assert (fpn.out_channels, fpn.strides, fpn.size_divisibility) == (32, (8, 16, 32, 64, 128), 128)


def test_what_the_neck_does_not_use_does_not_learn(registered):
    backbone = build("Two-C4")
    learning = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert learning == {f"body.{part}.{kind}" for part in ("stem", "layer1") for kind in ("weight", "bias")}


def test_freezing_needs_stages(registered):
    assert isinstance(build("Plain"), nn.Conv2d)
    with pytest.raises(ConfigError, match="FREEZE_CONV_BODY_AT"):
        build("Plain", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 1)


@pytest.mark.parametrize("name", ["R-50-FPM", "R-51-FPN", "Rabbit"])
def test_an_unknown_name_is_one_line_with_its_key(name):
    cfg = load_cfg(None)
    cfg.MODEL.BACKBONE.CONV_BODY = name
    with pytest.raises(ConvbodyError, match="MODEL.BACKBONE.CONV_BODY") as caught:
        build_backbone(cfg)
    assert "\n" not in str(caught.value)
