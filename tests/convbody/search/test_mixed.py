"""The batched layer is the sum of its candidates."""

import copy

import pytest
import torch
from torch import nn

from convbody.search.mixed import MixedLayer
from convbody.search.space import Layer, space_from_cfg
from registry import load_cfg

NINE = load_cfg(None).SEARCH.SPACE.CANDIDATES
SHAPES = {"shortcut": (8, 8, 1), "stride": (8, 12, 2), "wider": (8, 12, 1)}


def layer_of(shape, candidates=NINE, *opts):
    space = space_from_cfg(load_cfg(None, ["SEARCH.SPACE.CANDIDATES", candidates, *opts]))
    in_channels, out_channels, stride = SHAPES[shape]
    place = Layer(in_channels, out_channels, stride, stride, 7, out_channels)
    mixed = MixedLayer({op: space.block(place, op) for op in space.candidates}).double()
    for module in mixed.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return mixed


def run(layer, how, x, shares):
    x, shares = x.clone().requires_grad_(), shares.clone().requires_grad_()
    out = getattr(layer, how)(x, shares)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {"out": out, "x": x.grad, "shares": shares.grad, **gradients, **dict(layer.named_buffers())}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "opts", [(), ("MODEL.FBNET.DW_CONV_SKIP_BN", False, "MODEL.FBNET.DW_CONV_SKIP_RELU", False)]
)
def test_soft_is_the_naive_sum(shape, training, opts):
    soft = layer_of(shape, NINE, *opts).train(training)
    naive = copy.deepcopy(soft)
    x, shares = torch.randn(3, 8, 7, 7).double(), torch.randn(9).double().softmax(0)
    found, wanted = run(soft, "soft", x, shares), run(naive, "naive", x, shares)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    "candidates", [("ir_k3_e1", "ir_k3_e3_se", "ir_k33_e3", "basic_block", "skip"), ("skip",)]
)
@pytest.mark.parametrize("opts", [(), ("MODEL.FBNET.BN_TYPE", "gn", "MODEL.GROUP_NORM.NUM_GROUPS", 4)])
def test_candidates_that_do_not_batch_are_added(candidates, opts):
    soft = layer_of("shortcut", candidates, *opts)
    naive = copy.deepcopy(soft)
    x, shares = torch.randn(3, 8, 7, 7).double(), torch.randn(len(candidates)).double().softmax(0)
    found, wanted = run(soft, "soft", x, shares), run(naive, "naive", x, shares)
    for name in ("out", "x", "shares"):
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-9, atol=1e-9, msg=name)


def test_equal_expansions_are_batched():
    layer = layer_of("shortcut")
    calls = []
    original = torch.nn.functional.conv2d

    def counting(x, weight, *args, **kwargs):
        calls.append(tuple(weight.shape))
        return original(x, weight, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "conv2d", counting)
        layer.soft(torch.randn(2, 8, 7, 7).double(), torch.full((9,), 1 / 9).double())
    assert (80, 8, 1, 1) in calls and (80, 1, 3, 3) in calls and (80, 1, 5, 5) in calls


def test_only_the_picked_candidates_run():
    layer = layer_of("wider")
    out = layer.picked(torch.randn(2, 8, 7, 7).double(), [(1, torch.tensor(0.25)), (7, torch.tensor(0.75))])
    out.sum().backward()
    trained = {name.split(".")[1] for name, value in layer.named_parameters() if value.grad is not None}
    assert trained == {"1", "7"}
