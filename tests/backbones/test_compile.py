"""MODEL.COMPILE: one graph in every family, for images of other sizes, too, with the same numbers."""

import copy
from functools import partialmethod

import pytest
import torch
from torch import nn

from backbones import build_backbone
from registry import load_cfg

FAMILIES = {
    "R-18-FPN": (),
    "R-50-FPN": ("MODEL.RESNETS.STAGE_WITH_DCN", (False, True, True, True), "MODEL.FPN.USE_GN", True),
    "R-20-CIFAR-FPN": (),
    "TResNet-M-FPN": (),
    "FBNet": (),
    "timm/resnet18-FPN": (),
}


def build(name, compiled):
    torch.manual_seed(0)
    options = ["MODEL.BACKBONE.CONV_BODY", name, "MODEL.COMPILE", compiled, *FAMILIES[name]]
    return build_backbone(load_cfg(None, options))


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """How many graphs were made; a break of one is an error, and no compiler of C++ is needed."""
    made = []

    def backend(graph, inputs):
        made.append(graph)
        return graph

    whole = partialmethod(nn.Module.compile, backend=backend, fullgraph=True)
    monkeypatch.setattr(nn.Module, "compile", whole)
    torch._dynamo.reset()
    yield made
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_one_graph_with_the_same_numbers(name, graphs):
    compiled, reference = build(name, True).eval(), build(name, False).eval()
    assert compiled.state_dict().keys() == reference.state_dict().keys()
    for size in ((64, 96), (96, 160)):
        images = torch.rand(2, 3, *size)  # a batch of one is a case of its own
        with torch.no_grad():
            for feature, wanted in zip(compiled(images), reference(images), strict=True):
                torch.testing.assert_close(feature, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    assert len(graphs) == 1


@pytest.mark.slow
def test_other_sizes_and_batches_are_not_compiled_again_but_for_single_images(graphs):
    model = build("R-20-CIFAR-FPN", True).eval()
    # To torch, single images below 83x83 are one more case, and so are squares where the first is one.
    sizes = [(96, 128), (160, 96), (96, 96)]
    with torch.no_grad():
        for count in (2, 3, 5):
            for size in sizes:
                model(torch.rand(count, 3, *size))
        assert len(graphs) == 1
        for size in sizes:
            model(torch.rand(1, 3, *size))
    assert len(graphs) == 2


def test_it_trains_and_a_copy_runs_uncompiled(graphs):
    model = build("R-20-CIFAR-FPN", True).train()
    copied = copy.deepcopy(model)
    copied(torch.rand(2, 3, 32, 48))
    assert not graphs
    for size in ((32, 48), (64, 32)):
        torch.stack([feature.mean() for feature in model(torch.rand(2, 3, *size))]).sum().backward()
    assert len(graphs) == 1 and model.body.stem.conv1.weight.grad.abs().sum() > 0


def test_it_is_off_unless_asked_for(graphs):
    build("R-20-CIFAR-FPN", False)(torch.rand(2, 3, 32, 32))
    assert not graphs
