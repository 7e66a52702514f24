"""Bodies small enough to be compared in a second, and two sides of them."""

from __future__ import annotations

import pytest

from convbody.compare.batch import random_images
from convbody.compare.models import from_config
from convbody.compare.port import compare_sides, enliven_norms
from registry import load_cfg

SMALL = {
    "MODEL.BACKBONE.CONV_BODY": "R-50",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0,
    "MODEL.RESNETS.STEM_FUNC": "StemWithBatchNorm",
    "MODEL.RESNETS.TRANS_FUNC": "BottleneckWithBatchNorm",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 16,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.WEIGHT_DECAY": 0.0001,
}


@pytest.fixture
def cfg_of():
    """``cfg_of({KEY: value})``: the config of an R-50 with narrow blocks."""

    def make(changes=None):
        options = {**SMALL, **(changes or {})}
        return load_cfg(None, [part for pair in options.items() for part in pair])

    return make


@pytest.fixture
def side_of(cfg_of):
    """``side_of({KEY: value})``: that body, cut to two blocks a stage, with lively norms."""

    def make(changes=None):
        side = from_config(cfg_of(changes), "backbone", "a small body")
        body = side.model.body
        for name in ("layer1", "layer2", "layer3", "layer4"):
            setattr(body, name, body.get_submodule(name)[:2])
        enliven_norms(side.model, 0)
        return side

    return make


@pytest.fixture
def compared(side_of):
    """``compared(changes, plant, first)``: a body against itself with changed keys and a planted mistake."""

    def make(changes=None, plant=None, steps=1, first=None):
        second = side_of({**(first or {}), **(changes or {})})
        if plant is not None:
            plant(second)
        return compare_sides(side_of(first), second, random_images(2, 64, 64, 0), steps=steps)

    return make
