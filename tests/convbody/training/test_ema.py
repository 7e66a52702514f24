import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from convbody.training.ema import ModelEma


@given(
    decay=st.floats(0.0, 1.0),
    values=st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=12),
)
def test_law(decay, values):
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, values[0])
    ema = ModelEma(model, decay)
    expected = values[0]
    for iteration, value in enumerate(values[1:], start=1):
        nn.init.constant_(model.weight, value)
        ema.update(model, iteration)
        d = min(decay, (1 + iteration) / (10 + iteration))
        expected = d * expected + (1 - d) * value
    assert ema.module.weight.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_what_stands_still_is_not_moved_by_rounding():
    model = nn.Conv2d(3, 8, 3)
    before = model.weight.clone()
    ema = ModelEma(model, 0.999)
    for iteration in range(1, 50):
        ema.update(model, iteration)
    assert torch.equal(ema.module.weight, before)


def test_statistics_are_averaged_and_counters_copied():
    model = nn.BatchNorm2d(2).train()
    ema = ModelEma(model, 0.5)
    for iteration in range(1, 4):
        model(torch.randn(4, 2, 3, 3) + 5)
        ema.update(model, iteration)
    assert ema.module.num_batches_tracked == 3
    assert (ema.module.running_mean > 0).all() and (ema.module.running_mean < 5).all()
    assert not torch.equal(ema.module.running_mean, model.running_mean)


def test_the_average_neither_trains_nor_shares_memory():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    ema = ModelEma(model, 0.5)
    nn.init.zeros_(model[0].weight)
    assert ema.module[0].weight.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    assert model.training and not ema.module.training
