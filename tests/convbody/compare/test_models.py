"""Models by name, and what is said of a name that is none."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from convbody.compare.models import named
from registry import ConvbodyError


@pytest.fixture
def ports(monkeypatch):
    module = ModuleType("ports_of_tests")
    module.model = lambda: nn.Conv2d(3, 4, 1)
    module.number = lambda: 7
    module.broken = lambda: {}["weights"]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:resnet5", "torchvision has no model 'resnet5'; nearest: resnet50"),
        ("torchvision:vgg16-FPN", "torchvision has no model 'vgg16-FPN'"),
        ("timm:resnet5", "timm has no model 'resnet5'; nearest: resnet5"),
        ("resnet50", "'resnet50' names no model; give config:FILE.yaml"),
        ("ports_of_tests:modle", "ports_of_tests has no function modle; nearest: model"),
        ("ports_of_tests:number", "has to give a torch.nn.Module, or one and its optimiser, not a int"),
        ("ports_of_tests:broken", "ports_of_tests:broken fails: KeyError: 'weights'"),
        ("no_such_package.port:model", "no_such_package"),
        ("config:nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_a_name_that_is_none_is_one_line(spec, message, cfg_of, ports):
    with pytest.raises(ConvbodyError, match=message) as caught:
        named(spec, cfg_of(), "backbone")
    assert "\n" not in str(caught.value)


def test_a_function_may_bring_its_optimiser(cfg_of, ports, monkeypatch):
    model = nn.Conv2d(3, 4, 1)
    optimizer = torch.optim.Adam(model.parameters())
    monkeypatch.setattr(sys.modules[ports], "both", lambda: (model, optimizer), raising=False)
    side = named(f"{ports}:both", cfg_of(), "backbone")
    assert (side.model, side.optimizer) == (model, optimizer)


def test_the_solver_is_that_of_the_config_but_for_changes(cfg_of, ports):
    groups = named(f"{ports}:model", cfg_of(), "backbone", ["SOLVER.MOMENTUM", "0.5"]).optimizer.param_groups
    assert {group["momentum"] for group in groups} == {0.5}
    assert sorted(group["lr"] for group in groups) == [0.02, 0.04]  # biases learn twice as fast


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "resnet18-FPN"])
def test_torchvisions_models_fetch_no_weights(name, cfg_of, monkeypatch):
    def fetched(*_, **__):
        pytest.fail("weights were fetched")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fetched)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetched)
    assert named(f"torchvision:{name}", cfg_of(), "backbone").model.training
