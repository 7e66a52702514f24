"""Where in a file the weights are, and what wrappers put before their names."""

import logging
from collections import OrderedDict

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from backbones.weights.dictionaries import WRAPPERS, choose, plain_names, without_wrappers
from backbones.weights.read import read_weights
from registry import ConfigError, load_cfg

STATE = {
    "layer1.0.weight": torch.ones(2),
    "model_head.bias": torch.zeros(1),
    "module_list.0.weight": torch.ones(1),
}
PREFIXES = st.lists(st.sampled_from(["module", "model", "_orig_mod", "_fsdp_wrapped_module"]), max_size=4)
EXTRAS = {
    "epoch": 3,
    "args": None,
    "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
    "step": torch.tensor(1),
}


def under(keys, content):
    for key in reversed(keys):
        content = {**EXTRAS, key: content}
    return content


@given(PREFIXES, st.lists(st.sampled_from(WRAPPERS), max_size=4))
def test_any_nesting_of_prefixes_and_dictionaries_gives_the_same_tensors(prefixes, keys):
    names = {name: ".".join([*prefixes, name]) for name in STATE}
    chosen = choose(under(keys, {names[name]: tensor for name, tensor in STATE.items()}))
    assert chosen.path == ".".join(keys) and chosen.others == ()
    plain = plain_names(chosen.tensors)
    assert {name: chosen.tensors[plain[name]] for name in plain} == STATE


@given(st.lists(st.sampled_from(WRAPPERS), unique=True, min_size=1), st.data())
def test_the_first_in_the_order_counts_and_the_others_can_be_named(keys, data):
    content = EXTRAS | {key: {"a.weight": torch.full((1,), float(WRAPPERS.index(key)))} for key in keys}
    first, *others = sorted(keys, key=WRAPPERS.index)
    chosen = choose(content)
    assert (chosen.path, chosen.others) == (first, tuple(others))
    key = data.draw(st.sampled_from(keys))
    assert choose(content, key).tensors["a.weight"].item() == WRAPPERS.index(key)


def test_the_order():
    order = ["model", "state_dict", "model_state", "net", "ema", "model_ema", "state_dict_ema"]
    assert sorted(order, key=WRAPPERS.index) == order
    average = {"ema": {"module": {"a": torch.ones(1)}, "updates": 7}}
    assert choose(average).path == "ema.module"
    assert choose({**average, "net": {"a": torch.ones(1)}}).others == ("ema.module",)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("module.backbone._orig_mod.body.weight", "backbone.body.weight"),
        ("backbone._orig_mod.body._fsdp_wrapped_module.weight", "backbone.body.weight"),
        ("backbone.module.weight", "backbone.module.weight"),
        ("model", "model"),
        ("module.model", "model"),
        ("models.0.weight", "models.0.weight"),
    ],
)
def test_wrappers_of_a_whole_model_stand_first_and_compilers_anywhere(name, plain):
    assert without_wrappers(name) == plain


def test_of_two_tensors_for_one_name_the_one_among_more_counts(caplog):
    names = ["fc.weight", "model.fc.weight", "model.a", "model.b", "loss.c"]
    assert list(plain_names(names).values()) == ["model.fc.weight", "model.a", "model.b", "loss.c"]
    assert "fc.weight is left out: model.fc.weight stands in its place" in caplog.text


def test_a_file_that_holds_itself_is_read_once():
    content = {"model": {"a": torch.ones(1)}, "teacher": {}}
    content["teacher"]["again"] = content["model"]["state_dict"] = content["ema"] = content
    assert choose(content).path == "model"
    with pytest.raises(LookupError, match="has no dictionary student; there are tensors under"):
        choose(content, "student")
    levels = [{}]
    for _ in range(60):  # 2^60 ways lead to the last one
        levels.append({"model": levels[-1], "net": levels[-1], "x": levels[-1]})
    with pytest.raises(LookupError, match="holds no named tensors; its keys are model, net, x"):
        choose(levels[-1])


def test_a_dictionary_that_hides_its_methods():
    content = OrderedDict(model=OrderedDict(a=torch.ones(1)))
    for held in (content, content["model"]):
        held.__dict__.update(dict.fromkeys(("items", "get", "keys", "values", "__iter__"), 3))
    assert choose(content).path == "model"


def saved(folder, content):
    torch.save(content, folder / "w.pth")
    return str(folder / "w.pth")


@pytest.mark.parametrize(
    ("content", "fragment", "message"),
    [
        ({"epoch": 1, "lr": 0.1}, "", r"holds no named tensors; its keys are epoch, lr \("),
        (
            {"encoder": STATE, "b": {"decoder": dict(STATE)}},
            "",
            r"under encoder, b.decoder: name one .*FILE#encoder",
        ),
        ({"model": STATE, "ema": STATE}, "#emma", "has no dictionary emma; there are tensors under model"),
        ({"model": STATE, "opt": {"lr": 1}}, "#opt", "holds no named tensors under opt; .* under model"),
        ({"model": STATE}, "#", "after # stands the name of one dictionary"),
        ([1, 2], "", "holds no named tensors; it has no keys"),
        ({str(i): i for i in range(30)}, "", r"its keys are 0, .*, 11, \.\.\."),
        ({"a\nb": 1}, "", "its keys are a b"),
    ],
)
def test_what_is_not_there_is_an_error_that_lists_what_is(tmp_path, content, fragment, message):
    weight = saved(tmp_path, content) + fragment
    with pytest.raises(ConfigError, match=message) as caught:
        read_weights(weight, load_cfg(None, ["MODEL.WEIGHT", weight]))
    assert "set on the command line" in str(caught.value) and "\n" not in str(caught.value)


def test_a_dictionary_is_named_after_the_file(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    file = saved(
        tmp_path, {"model": {"a": torch.zeros(1)}, "deep.er": {"ema": {"a": torch.ones(1)}}, "contract": 3}
    )
    assert (
        read_weights(f"{file}#deep.er").tensors["a"] == read_weights(f"{file}#deep.er.ema").tensors["a"] == 1
    )
    assert caplog.text == ""
    assert (
        read_weights(saved(tmp_path, {"ema": dict(STATE), "model": STATE, "net": {**STATE}})).tensors.keys()
        == STATE.keys()
    )
    assert "the weights under model are taken; there are others under net, ema" in caplog.text


def test_a_file_whose_name_has_the_sign_is_meant_where_it_exists(tmp_path):
    (tmp_path / "run#3").mkdir()
    file = saved(tmp_path / "run#3", {"model": {"a": torch.zeros(1)}, "ema": {"a": torch.ones(1)}})
    assert read_weights(file).tensors["a"] == 0 and read_weights(f"{file}#ema").tensors["a"] == 1
