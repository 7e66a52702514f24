from string import ascii_lowercase

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backbones.weights.lineages import LINEAGES
from backbones.weights.rules import Lineage, Rule, fill, match

TEMPLATES = [rule for lineage in LINEAGES for rule in lineage.rules]
FIELDS = st.fixed_dictionaries(
    {
        **{letter: st.integers(0, 200) for letter in ascii_lowercase},
        **{word: st.from_regex(r"[a-z]{1,5}", fullmatch=True) for word in ("leaf", "name", "rest")},
    }
)


@given(st.sampled_from(TEMPLATES), FIELDS)
def test_each_name_of_a_rule_follows_from_the_other(rule, values):
    theirs, ours = fill(rule.theirs, values), fill(rule.ours, values)
    assert fill(rule.ours, match(rule.theirs, theirs)) == ours
    assert fill(rule.theirs, match(rule.ours, ours)) == theirs


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("res{s+1}_{b}_w", "xres2_0_w"),
        ("res{s+1}_{b}_w", "res2_0_w_b"),
        ("res{s+1}_{b}_w", "res0_0_w"),
        ("res{s+1}_{b}_w", "res2_00_w"),
        ("conv.{i*2}.{leaf}", "conv.3.weight"),
        ("conv.{i}.{leaf}", "conv.3.0.weight"),
        ("conv.{i}.{leaf}", "convx3.weight"),
    ],
)
def test_names_that_are_not_of_a_template(template, name):
    assert match(template, name) is None


NORM = Rule("n{i+1}_s", "layers.{i*2+1}.weight")
LINEAGE = Lineage(
    "theirs",
    ("n{i}_s",),
    (
        NORM,
        Rule("c{i+1}_w", "layers.{i*2}.weight", beside=(NORM,)),
        Rule("c{i+1}_w", "layers.{i}.weight"),
        Rule("t_w", "turned.weight", to_ours=torch.t, to_theirs=torch.t),
    ),
)


def names(renamed):
    return {old: new.name for old, new in renamed.items()}


def test_what_lies_beside_a_tensor_tells_what_it_is_in_both_directions():
    assert names(LINEAGE.to_ours(["c2_w"])) == {"c2_w": "layers.1.weight"}
    assert names(LINEAGE.to_ours(["c2_w", "n2_s"]))["c2_w"] == "layers.2.weight"
    assert names(LINEAGE.to_theirs(["layers.2.weight"])) == {"layers.2.weight": "c3_w"}
    assert names(LINEAGE.to_theirs(["layers.2.weight", "layers.3.weight"]))["layers.2.weight"] == "c2_w"


def test_among_several_names_the_wanted_one_counts():
    renamed = LINEAGE.to_ours(["c2_w", "n2_s"], wanted={"layers.1.weight"})
    assert names(renamed)["c2_w"] == "layers.1.weight"


def test_names_without_a_rule_are_left_out():
    assert LINEAGE.to_ours(["other"]) == {} and LINEAGE.to_theirs(["other"]) == {}
    assert LINEAGE.marked(["a", "n3_s"]) and not LINEAGE.marked(["a", "n3_s_x"])
