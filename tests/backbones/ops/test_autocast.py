"""Autocast is asked for on every device, and networks run where there are shapes only."""

import pytest
import torch

from backbones import build_backbone
from backbones.ops.autocast import autocast_dtype
from registry import load_cfg


def test_the_type_is_that_of_the_device_and_of_now():
    assert autocast_dtype("cpu") is None
    with torch.autocast("cpu", torch.bfloat16):
        assert autocast_dtype("cpu") is torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert autocast_dtype("cpu") is None
        assert autocast_dtype("meta") is None


@pytest.mark.parametrize("training", [True, False])
def test_a_network_of_shapes_alone_runs_forwards_and_backwards(training):
    opts = ["MODEL.BACKBONE.CONV_BODY", "R-50-FPN", "MODEL.RESNETS.STAGE_WITH_DCN", (False, True, True, True)]
    with torch.device("meta"):
        model = build_backbone(load_cfg(None, opts)).train(training)
        features = model(torch.empty(2, 3, 64, 96))
    assert [tuple(feature.shape[2:]) for feature in features] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    torch.stack([feature.sum() for feature in features]).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
