"""The fused convolution against torch's, in float64 where rounding is judged."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from backbones.ops.fused_conv import _MOST_FILTERS, flipped, fused_conv2d, serves, suits
from backbones.ops.library import absent

pytestmark = pytest.mark.skipif(bool(absent("cpu")), reason=f"the extension is absent: {absent('cpu')}")
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def draw(batch, channels, out_channels, kernel, size, layout=torch.channels_last):
    """Input, weight, bias and residual; sums of about 1."""
    generator = torch.Generator().manual_seed(0)

    def values(*shape):
        return torch.randn(shape, generator=generator)

    x = values(batch, channels, *size).to(memory_format=layout)
    weight = values(out_channels, channels, kernel, kernel) / (channels * kernel**2) ** 0.5
    return x, weight, values(out_channels), values(batch, out_channels, *size).to(memory_format=layout)


def plain(x, weight, bias, residual, relu):
    """The same by torch."""
    out = F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)
    out = out if residual is None else out + residual
    return out.relu() if relu else out


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    widths=st.tuples(st.sampled_from([32, 64, 96]), st.sampled_from([32, 64, 160])),
    kernel=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    layout=st.sampled_from(LAYOUTS),
    with_bias=st.booleans(),
    with_residual=st.booleans(),
    relu=st.booleans(),
    threads=st.integers(1, 3),
)
def test_it_is_torchs_convolution(
    batch, widths, kernel, size, layout, with_bias, with_residual, relu, threads
):
    x, weight, bias, residual = draw(batch, *widths, kernel, size, layout)
    bias, residual = bias if with_bias else None, residual if with_residual else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = fused_conv2d(x, weight, bias, residual, relu)
    finally:
        torch.set_num_threads(before)
    assert out.is_contiguous(memory_format=torch.channels_last)
    exact = [None if each is None else each.double() for each in (x, weight, bias, residual)]
    torch.testing.assert_close(out.double(), plain(*exact, relu), atol=2e-5, rtol=0)


@pytest.mark.parametrize("channels", [32, 256])
def test_its_rounding_errors_are_those_of_float32(channels):
    x, weight, *_ = draw(1, channels, 64, 3, (24, 24))
    exact = plain(x.double(), weight.double(), None, None, False)
    theirs = (plain(x, weight, None, None, False) - exact).std()
    assert (fused_conv2d(x, weight) - exact).std() < 3 * theirs


def test_the_number_of_threads_changes_no_bit():
    x, weight, bias, _ = draw(2, 64, 64, 3, (21, 18))
    outs = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        outs.append(fused_conv2d(x, weight, bias, None, True))
    torch.set_num_threads(1)
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


def test_each_image_is_convolved_alone():
    x, weight, bias, _ = draw(3, 32, 32, 3, (9, 7))
    whole = fused_conv2d(x, weight, bias)
    for image, out in zip(x.split(1), whole.split(1), strict=True):
        torch.testing.assert_close(fused_conv2d(image, weight, bias), out, atol=0, rtol=0)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("relu", [False, True])
def test_first_and_second_derivatives(kernel, relu):
    def derivatives(function):
        tensors = [each.requires_grad_() for each in draw(2, 32, 64, kernel, (6, 5))]
        out = function(*tensors, relu)
        firsts = torch.autograd.grad(out.square().sum(), tensors, create_graph=True)
        seconds = torch.autograd.grad(sum(first.square().sum() for first in firsts), tensors)
        return [*firsts, *seconds]

    for found, wanted in zip(derivatives(fused_conv2d), derivatives(plain), strict=True):
        scale = float(wanted.detach().abs().max())
        torch.testing.assert_close(found, wanted, atol=1e-4 * scale, rtol=0)


def test_gradients_that_nobody_wants_are_not_made():
    x, weight, bias, residual = draw(1, 32, 32, 3, (6, 6))
    fused_conv2d(x, weight, bias.requires_grad_(), residual).sum().backward()
    torch.testing.assert_close(bias.grad, torch.full((32,), 36.0))
    assert x.grad is None and weight.grad is None


def test_flipped_filters_carry_gradients_to_the_input():
    x, weight, *_ = draw(1, 32, 64, 3, (6, 5))
    x.requires_grad_()
    out = plain(x, weight, None, None, False)
    grad = torch.randn_like(out)
    (wanted,) = torch.autograd.grad(out, x, grad)
    torch.testing.assert_close(fused_conv2d(grad, flipped(weight)), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(requires_grad):
    x, weight, bias, residual = (each.requires_grad_(requires_grad) for each in draw(2, 32, 32, 3, (5, 6)))
    operator = torch.ops.convbody.fused_conv2d.default
    opcheck(operator, (x, weight, bias, residual, True))
    opcheck(operator, (x, weight, None, None, False))


def test_empty_batches_and_maps():
    x, weight, bias, _ = draw(2, 32, 64, 3, (4, 4))
    assert fused_conv2d(x[:0], weight, bias).shape == (0, 64, 4, 4)
    assert fused_conv2d(x[:, :, :0], weight, bias).shape == (2, 64, 0, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, w, b, r: (x.double(), w, b, r), "be float32.*Double"),
        (lambda x, w, b, r: (x[0], w, b, r), r"4 dimensions.*\(32, 5, 6\)"),
        (lambda x, w, b, r: (x, w.double(), b, r), "the weight.*Double"),
        (lambda x, w, b, r: (x, w[:, :, :2, :2], b, r), "not 1x1 or 3x3"),
        (lambda x, w, b, r: (x, w[:, :, :, :1], b, r), r"must have shape \(32, 32, 3, 3\)"),
        (lambda x, w, b, r: (x[:, :8], w[:, :8], b, r), "multiples of 32"),
        (lambda x, w, b, r: (x, w[:8], b, r), "multiples of 32"),
        (lambda x, w, b, r: (x, w, b[:4], r), r"the bias.*\(4,\).*\(32,\)"),
        (lambda x, w, b, r: (x, w, b, r[:1]), "the residual"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    tensors = draw(2, 32, 32, 3, (5, 6))
    with pytest.raises(RuntimeError, match=message):
        fused_conv2d(*change(*tensors))


def test_what_it_is_chosen_for():
    def is_suited(shape=(64, 32, 3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1):
        return suits(torch.empty(shape, device="meta"), stride, padding, dilation, groups)

    assert is_suited() and is_suited((64, 32, 1, 1), padding=(0, 0))
    assert not is_suited(stride=(2, 2)) and not is_suited(dilation=(2, 2)) and not is_suited(groups=2)
    assert not is_suited(padding=(0, 0)) and not is_suited((64, 32, 1, 1)) and not is_suited((64, 32, 5, 5))
    assert not is_suited((48, 32, 3, 3)) and not is_suited((64, 3, 3, 3))
    assert not is_suited((64, _MOST_FILTERS // 32, 3, 3))

    weight = torch.zeros(32, 32, 3, 3)
    large, small = (torch.zeros(1, 32, side, 20).to(memory_format=LAYOUTS[1]) for side in (20, 5))
    assert serves(large, weight) and not serves(small, weight)
    assert not serves(large.contiguous(), weight) and serves(large.contiguous(), weight, reorders=True)
    assert not serves(large.double(), weight) and not serves(large.bfloat16(), weight.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert not serves(large, weight)
