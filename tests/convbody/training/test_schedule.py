import math

import pytest
import torch
import training_toy as toy
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from convbody.training.schedule import build_optimizer, learning_rate, parameter_groups, set_learning_rate
from registry import ConfigError, load_cfg


def config(**changes):
    options = {f"SOLVER.{key}": value for key, value in changes.items()}
    return load_cfg(None, [part for pair in options.items() for part in pair])


def test_published_schedule():
    rate = learning_rate(config())
    expected = {0: 0.001 / 3, 250: 0.001 * 2 / 3, 499: 0.001 * (1 / 3 + 2 / 3 * 499 / 500), 500: 0.001}
    expected |= {29999: 0.001, 30000: 0.0001, 39999: 0.0001}
    for iteration, value in expected.items():
        assert rate(iteration) == pytest.approx(value, rel=1e-9), iteration


def test_cosine():
    rate = learning_rate(config(SCHEDULE="cosine", WARMUP_ITERS=0, MAX_ITER=100, BASE_LR=1.0, END_FACTOR=0.2))
    assert [rate(0), rate(50)] == pytest.approx([1.0, 0.6])
    assert rate(99) == pytest.approx(0.2 + 0.4 * (1 + math.cos(0.99 * math.pi)))


@given(
    steps=st.lists(st.integers(1, 200_000), unique=True, max_size=4).map(sorted),
    max_iter=st.integers(1, 200_000),
    warmup=st.integers(0, 3000),
    method=st.sampled_from(["linear", "constant"]),
    data=st.data(),
)
def test_law_of_the_learning_rate(steps, max_iter, warmup, method, data):
    cfg = toy.config(
        SOLVER__STEPS=tuple(steps), SOLVER__MAX_ITER=max_iter, SOLVER__BASE_LR=0.3,
        SOLVER__WARMUP_ITERS=warmup, SOLVER__WARMUP_METHOD=method,
    )  # fmt: skip
    near = [edge + offset for edge in [*steps, warmup] for offset in (-1, 0, 1)]
    iteration = data.draw(st.integers(0, max_iter - 1) | st.sampled_from([0, *near]))
    if not 0 <= iteration < max_iter:
        return
    factor = 1.0
    if iteration < warmup:
        factor = 1 / 3 if method == "constant" else 1 / 3 * (1 - iteration / warmup) + iteration / warmup
    drops = sum(step <= iteration for step in steps)
    assert learning_rate(cfg)(iteration) == pytest.approx(0.3 * factor * 0.1**drops, rel=1e-9)


@pytest.mark.parametrize(
    "changes, key",
    [
        ({"STEPS": (10, 10)}, "SOLVER.STEPS"),
        ({"STEPS": (0,)}, "SOLVER.STEPS"),
        ({"SCHEDULE": "step"}, "SOLVER.SCHEDULE"),
        ({"WARMUP_METHOD": "exp"}, "SOLVER.WARMUP_METHOD"),
        ({"MAX_ITER": 0}, "SOLVER.MAX_ITER"),
    ],
)
def test_schedule_errors_name_the_key(changes, key):
    with pytest.raises(ConfigError, match=f"{key} = .*command line"):
        learning_rate(config(**changes))


LAYERS = st.sampled_from(
    [
        lambda: nn.Conv2d(2, 2, 1),
        lambda: nn.Conv2d(2, 2, 1, bias=False),
        lambda: nn.BatchNorm2d(2),
        lambda: nn.LayerNorm(2),
        lambda: nn.Linear(2, 2),
        lambda: nn.MultiheadAttention(2, 1),
        lambda: nn.PReLU(),
    ]
)


@given(
    layers=st.lists(LAYERS, min_size=1, max_size=6),
    frozen=st.sets(st.integers(0, 5)),
    split=st.integers(0, 6),
)
def test_every_trainable_parameter_is_in_exactly_one_group(layers, frozen, split):
    model = nn.Sequential(*(build() for build in layers), nn.Linear(2, 2))
    for index in frozen & set(range(len(layers))):
        model[index].requires_grad_(False)
    stages = [(f"stage{index}", [model[index]]) for index in range(min(split, len(layers)))]
    groups = parameter_groups(config(LAYER_DECAY=0.5) if stages else config(), model, stages)
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {parameter for parameter in model.parameters() if parameter.requires_grad}
    names = dict(model.named_parameters())
    for group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert names[name] is parameter
            stage = int(name.split(".")[0])
            factor = 0.5 ** (len(stages) - stage) if stage < len(stages) else 1.0
            bias = name.endswith("bias")
            assert group["lr_factor"] == factor * (2.0 if bias else 1.0)
            assert group["weight_decay"] == (0.0 if bias else 0.0005)


def test_norm_weight_decay():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    decays = {
        name: group["weight_decay"]
        for group in parameter_groups(config(WEIGHT_DECAY_NORM=0.0, WEIGHT_DECAY=0.1), model)
        for name in group["names"]
    }
    assert decays == {"0.weight": 0.1, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0}


def test_shared_parameters_are_trained_once():
    layer = nn.Linear(2, 2)
    groups = parameter_groups(config(), nn.Sequential(layer, layer))
    assert sum(len(group["params"]) for group in groups) == 2


@pytest.mark.parametrize("optimizer, kind", [("SGD", torch.optim.SGD), ("AdamW", torch.optim.AdamW)])
def test_optimizer(optimizer, kind):
    built = build_optimizer(config(OPTIMIZER=optimizer), nn.Linear(2, 2))
    assert isinstance(built, kind)
    set_learning_rate(built, 0.5)
    assert {group["names"][0]: group["lr"] for group in built.param_groups} == {"weight": 0.5, "bias": 1.0}
    if optimizer == "SGD":
        assert {group["momentum"] for group in built.param_groups} == {0.9}


def test_optimizer_errors():
    with pytest.raises(ConfigError, match="SOLVER.OPTIMIZER = 'Adam'"):
        build_optimizer(config(OPTIMIZER="Adam"), nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="frozen"):
        build_optimizer(config(), nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(ConfigError, match="SOLVER.LAYER_DECAY = 0.9"):
        build_optimizer(config(LAYER_DECAY=0.9), nn.Linear(2, 2))
