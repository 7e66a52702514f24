"""The published space, and what a wrong one is told."""

import random

import pytest
import torch

from backbones.fbnet.find import find_architecture
from convbody.search.measure import build_network
from convbody.search.space import space_from_cfg
from registry import ConfigError, UnknownNameError, get_cfg, load_cfg


def test_the_published_space_has_22_layers_of_nine_candidates():
    space = space_from_cfg(get_cfg())
    assert (len(space.layers), len(space.candidates), space.first) == (22, 9, (16, 2))
    widths = [layer.out_channels for layer in space.layers]
    assert widths == [16] + [24] * 4 + [32] * 4 + [64] * 4 + [112] * 4 + [184] * 4 + [352]
    assert [place for place, layer in enumerate(space.layers) if layer.stride == 2] == [1, 5, 9, 17]
    assert [layer.side for layer in space.layers][::4] == [112, 56, 28, 14, 14, 7]


@pytest.mark.parametrize("name", ["fbnet_a", "fbnet_b", "fbnet_c"])
def test_published_results_of_the_search_are_points_of_the_space(name):
    cfg = get_cfg()
    published, space = find_architecture(name, cfg), space_from_cfg(cfg)
    choice = [stage[0].op for stage in published.stages]
    found = space.architecture(choice)
    fields = [(stage[0].op, stage[0].channels, stage[0].stride) for stage in found.stages]
    assert fields == [(stage[0].op, stage[0].channels, stage[0].stride) for stage in published.stages]


def test_a_random_architecture_is_a_body(search_cfg):
    space = space_from_cfg(search_cfg())
    choice = space.random(random.Random(0))
    assert choice == space.random(random.Random(0))
    body = build_network(space, choice).eval()
    (feature,) = body(torch.zeros(1, 3, 32, 32))
    assert feature.shape == (1, 16, 8, 8)


def test_the_supernet_has_strides_of_its_own(search_cfg):
    space = space_from_cfg(search_cfg())
    layer = space.layers[1]
    image = torch.zeros(1, 8, 8, 8)
    assert space.block(layer, "ir_k3_e1").eval()(image).shape[-1] == 4
    assert space.first_convolution(3).eval()(torch.zeros(1, 3, 8, 8)).shape[-1] == 4
    assert space.first_convolution(3, training=True).eval()(torch.zeros(1, 3, 8, 8)).shape[-1] == 8


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("BLOCKS", ([16, 1],)),
        ("BLOCKS", ([16, 1, 3],)),
        ("BLOCKS", ()),
        ("FIRST", (16, 0)),
        ("TRAIN_STRIDES", (1, 1)),
        ("CANDIDATES", ("skip", "skip")),
        ("CANDIDATES", ()),
    ],
)
def test_a_space_that_cannot_be_names_its_key(key, value):
    with pytest.raises(ConfigError, match=f"SEARCH.SPACE.{key}"):
        space_from_cfg(load_cfg(None, [f"SEARCH.SPACE.{key}", value]))


def test_an_unknown_candidate_is_told_a_near_one():
    with pytest.raises(UnknownNameError, match="ir_k3_e1"):
        space_from_cfg(load_cfg(None, ["SEARCH.SPACE.CANDIDATES", ("ir_k3_e11",)]))


def test_a_candidate_that_cannot_have_a_width_is_an_error():
    space = space_from_cfg(load_cfg(None, ["SEARCH.SPACE.BLOCKS", ([15, 1, 1],)]))
    with pytest.raises(ConfigError, match="ir_k3_s2.*15 channels"):
        space.block(space.layers[0], "ir_k3_s2")
