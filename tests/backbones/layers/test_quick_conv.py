"""Convolutions that become quick ones: where, and that nothing else changes."""

import copy

import pytest
import torch
from torch import nn

from backbones import build_backbone
from backbones.layers.conv import conv_norm
from backbones.layers.norm import FrozenBatchNorm2d
from backbones.layers.quick_conv import QuickConv2d, quicken
from backbones.ops import fused_conv
from registry import load_cfg

pytestmark = pytest.mark.skipif(not fused_conv.quick_here(), reason="nothing is quicker on this machine")
LAST = torch.channels_last


@pytest.fixture
def counted(monkeypatch):
    """How many calls of the operator there were, in a list of its weights' shapes."""
    calls = []
    real = torch.ops.convbody.fused_conv2d

    def operator(x, weight, *rest):
        calls.append(tuple(weight.shape))
        return real(x, weight, *rest)

    monkeypatch.setattr(torch.ops.convbody, "fused_conv2d", operator)
    return calls


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.Conv2d(64, 64, 3, padding=1, stride=2),
        nn.Conv2d(64, 64, 3, padding=1, groups=2),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(64, 32, 1),
    )


def test_only_wide_plain_3x3_convolutions_become_quick():
    model = network()
    share = quicken(model)
    assert [type(conv) is QuickConv2d for conv in model] == [False, True, False, False, False, False]
    total = sum(conv.weight.numel() for conv in model)
    assert share == pytest.approx(model[1].weight.numel() / total)
    assert quicken(nn.ReLU()) == 0


def test_values_gradients_and_names_stay(counted):
    model, quick = network(), network()
    quicken(quick)
    assert list(quick.state_dict()) == list(model.state_dict())
    images = torch.rand(1, 3, 24, 20).to(memory_format=LAST)
    out, wanted = quick(images), model(images)
    assert counted == [(64, 32, 3, 3)]
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-4)
    for each in (out, wanted):
        each.square().sum().backward()
    for found, parameter in zip(quick.parameters(), model.parameters(), strict=True):
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(found.grad, parameter.grad, atol=1e-4 * scale, rtol=0)
    torch.testing.assert_close(copy.deepcopy(quick)(images), out, atol=0, rtol=0)


def test_contiguous_images_are_reordered_where_that_was_asked_for(counted):
    images = torch.rand(1, 32, 20, 20)
    for reorders in (False, True):
        conv = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1))
        quicken(conv, reorders)
        assert conv(images).is_contiguous(memory_format=LAST) == reorders
    assert len(counted) == 1


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_frozen_norm_a_residual_and_a_relu_go_along(kernel, learns, counted):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(32, 64, kernel, padding=kernel // 2, bias=False), FrozenBatchNorm2d(64)
    for buffer in norm.buffers():
        buffer.uniform_(0.5, 1.5)
    x, residual = (torch.randn(1, width, 20, 20).to(memory_format=LAST) for width in (32, 64))
    x.requires_grad_(learns)
    with torch.set_grad_enabled(learns):
        wanted, out = (norm(conv(x)) + residual).relu(), conv_norm(conv, norm, x, residual, relu=True)
    assert len(counted) == 1
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-4)
    if learns:
        tensors = (x, conv.weight)
        gradients = (torch.autograd.grad(each.square().sum(), tensors) for each in (out, wanted))
        for found, gradient in zip(*gradients, strict=True):
            torch.testing.assert_close(found, gradient, atol=1e-4 * float(gradient.abs().max()), rtol=0)


def test_what_follows_is_the_same_where_nothing_is_folded():
    conv, norm = nn.Conv2d(4, 6, 1), nn.GroupNorm(2, 6)
    x, residual = torch.randn(1, 4, 5, 5), torch.randn(1, 6, 5, 5)
    before = residual.clone()
    wanted = (norm(conv(x)) + residual).relu()
    torch.testing.assert_close(conv_norm(conv, norm, x, residual, relu=True), wanted)
    torch.testing.assert_close(conv_norm(conv, norm, x), norm(conv(x)))
    assert torch.equal(residual, before)


def test_autocast_and_compilers_take_torchs_convolution(counted):
    conv = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1))
    quicken(conv)
    x = torch.rand(1, 32, 20, 20).to(memory_format=LAST)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
    torch.compile(conv, backend="eager", fullgraph=True)(x)
    torch.jit.trace(conv, x, check_trace=False)
    torch.export.export(conv, (x,))
    assert not counted


@pytest.mark.parametrize(("name", "quick"), [("R-18-FPN", True), ("FBNet-fbnet_c-FPN", False)])
def test_networks_of_quick_convolutions_prefer_channels_last(name, quick, counted):
    cfg = load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", name, "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 32])
    features = build_backbone(cfg).eval()(torch.rand(1, 3, 96, 96))
    assert all(feature.is_contiguous(memory_format=LAST) == quick for feature in features)
    assert bool(counted) == quick
