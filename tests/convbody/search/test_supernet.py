"""The supernet as a whole."""

import copy

import pytest
import torch

from convbody.search.choice import gumbel_shares
from convbody.search.space import space_from_cfg
from convbody.search.supernet import Supernet, build_supernet
from registry import ConfigError


@pytest.fixture
def space(search_cfg):
    return space_from_cfg(search_cfg())


def test_soft_and_naive_are_the_same_function(space):
    soft = Supernet(space, 3, 10).double()
    naive = copy.deepcopy(soft)
    naive.mode = "naive"
    images, shares = torch.randn(4, 3, 8, 8).double(), gumbel_shares(torch.zeros(4, 4).double(), 5.0)
    torch.testing.assert_close(soft(images, shares), naive(images, shares))
    assert soft.mode == "soft"


def test_sampled_with_a_certain_choice_is_that_architecture(space):
    net = Supernet(space, 3, 10, "sampled", 2).eval()
    shares = torch.zeros(4, 4)
    shares[torch.arange(4), torch.tensor([3, 0, 1, 2])] = 1
    with torch.no_grad():
        net.theta.copy_(shares)
        images = torch.randn(2, 3, 8, 8)
        torch.testing.assert_close(net(images, shares), net(images))


def test_without_shares_the_likeliest_runs_alone(space):
    net = Supernet(space, 3, 10).eval()
    images = torch.randn(2, 3, 8, 8)
    before = net(images)
    with torch.no_grad():
        net.theta[2, 3] = 1
    assert not torch.equal(net(images), before)


@pytest.mark.parametrize(("key", "value"), [("FORWARD", "sampling"), ("BRANCHES", 0)])
def test_a_forward_that_cannot_be_names_its_key(search_cfg, key, value):
    cfg = search_cfg({f"SEARCH.{key}": value})
    with pytest.raises(ConfigError, match=f"SEARCH.{key}"):
        build_supernet(cfg, space_from_cfg(cfg))
