"""benchmarks/bf16_quality.py: products computed in float32 are those of bfloat16, and the table compares."""

from contextlib import nullcontext

import bf16_quality
import pytest
import torch
from products import Products
from torch import nn


def conv():
    torch.manual_seed(0)
    return nn.Conv2d(8, 4, 3)


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(8 * 6 * 6, 4))


@pytest.mark.parametrize("make", [conv, linear])
def test_widened_products_are_those_of_bfloat16(make):
    images = torch.rand(2, 8, 6, 6, generator=torch.Generator().manual_seed(1))
    results = []
    for wide in (False, True):
        net, x = make(), images.clone().requires_grad_()
        with Products() as products:  # sees what is left to compute once products are widened
            mode = bf16_quality.WideProducts() if wide else nullcontext()
            with mode, torch.autocast("cpu", torch.bfloat16):
                y = net(x)
                y.float().square().sum().backward()
        assert set.union(*products.read.values()) == {torch.float32 if wide else torch.bfloat16}
        assert y.dtype is torch.bfloat16
        results.append([y.detach().float(), x.grad, *(p.grad for p in net.parameters())])
    for native, widened in zip(*results, strict=True):
        torch.testing.assert_close(widened, native, rtol=2**-6, atol=2**-6 * float(native.abs().max()))


def test_float32_stays_as_it_is():
    with bf16_quality.WideProducts(), Products() as products:
        conv()(torch.rand(1, 8, 6, 6))
    assert products.read == {"aten::convolution": {torch.float32}}


def test_the_table_has_a_row_for_each_seed_and_the_difference_of_means():
    rounds = [
        {"float32": {"AP": 0.1, "AP50": 0.3}, "bfloat16": {"AP": 0.2, "AP50": 0.29}},
        {"float32": {"AP": 0.3, "AP50": 0.5}, "bfloat16": {"AP": 0.2, "AP50": 0.52}},
    ]
    assert bf16_quality.table(rounds).splitlines()[2:] == [
        "| 0 | 0.100 | 0.200 | +0.100 | 0.300 | 0.290 | -0.010 |",
        "| 1 | 0.300 | 0.200 | -0.100 | 0.500 | 0.520 | +0.020 |",
        "| mean | 0.200 | 0.200 | +0.000 | 0.400 | 0.405 | +0.005 |",
    ]
