"""Tensors and modules of both sides find each other by whole names."""

from __future__ import annotations

import pytest
import torch

from convbody.compare.names import pair
from registry import ConvbodyError


def state(*names, shape=(2,)):
    return {name: torch.zeros(shape) for name in names}


def test_names_meet_as_they_are_and_as_parts_of_each_other():
    names = ("body.layer1.0.conv1.weight", "fpn.fpn_inner2.bias")
    assert pair(state(*names), state(*names)).tensors == {name: name for name in names}
    whole = [f"backbone.{name}" for name in names]
    assert pair(state(*names), state(*whole)).tensors == dict(zip(names, whole, strict=True))


def test_torchvisions_names_meet_ours_in_either_direction():
    ours = state("body.stem.conv1.weight", "body.layer1.0.conv1.weight", "body.layer1.0.conv2.weight")
    theirs = state("conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight", "fc.weight")
    there = pair(ours, theirs)
    assert there.tensors["body.stem.conv1.weight"] == "conv1.weight"
    assert (there.only_first, there.only_second) == ((), ("fc.weight",))
    back = pair(theirs, ours)
    assert back.tensors == {b: a for a, b in there.tensors.items()}


def test_modules_meet_through_their_tensors():
    ours = state("body.stem.conv1.weight", "body.layer1.0.conv1.weight", "body.layer1.1.conv1.weight")
    theirs = state("conv1.weight", "layer1.0.conv1.weight", "layer1.1.conv1.weight")
    modules = pair(ours, theirs).modules
    assert modules["body.layer1"] == "layer1"
    assert modules["body.layer1.1"] == "layer1.1"
    assert modules["body.layer1.1.conv1"] == "layer1.1.conv1"
    assert modules["body.stem.conv1"] == "conv1"


def test_a_layer_meets_the_innermost_of_wrappers():
    modules = pair(
        state("backbone.fpn.fpn_inner1.weight", "backbone.body.stem.conv1.weight"),
        state("backbone.fpn.inner_blocks.0.0.weight", "backbone.body.conv1.weight"),
    ).modules
    assert modules["backbone.fpn.fpn_inner1"] == "backbone.fpn.inner_blocks.0.0"


def test_no_common_tensor_is_an_error():
    with pytest.raises(ConvbodyError, match="no tensor of one side is known on the other: a.weight here"):
        pair(state("a.weight"), state("b.weight", "c.weight", "d.weight"))


def test_other_shapes_are_named():
    with pytest.raises(ConvbodyError, match=r"1 of 2 tensors differ in shape.*: b is \(2,\), b is \(3,\)"):
        pair(state("a", "b"), {**state("a"), **state("b", shape=(3,))})
