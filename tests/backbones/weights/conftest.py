import pytest

from backbones import build_backbone
from registry import load_cfg

WIDTH = 32  # as few channels as group norm's 32 groups divide

NARROW = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", WIDTH),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 2 * WIDTH),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", WIDTH),
    *("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", WIDTH),
]

WITH_GN = [
    *("MODEL.RESNETS.STEM_FUNC", "StemWithGN"),
    *("MODEL.RESNETS.TRANS_FUNC", "BottleneckWithGN"),
    *("MODEL.FPN.USE_GN", True),
]


@pytest.fixture
def build_narrow():
    """A ResNet with any neck, of few channels, by the name of its conv body; ``gn`` for group norm."""

    def build(name, *opts, gn=False):
        options = [*NARROW, *(WITH_GN if gn else []), *opts]
        return build_backbone(load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", name, *options]))

    return build
