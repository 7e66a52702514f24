"""The public operator, with whichever kernel serves: its values, its gradients, what it refuses."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.ops import deform_conv2d
from backbones.ops.checks import ArgumentError
from backbones.ops.deform_conv_reference import deform_conv2d_reference
from registry import ConvbodyError

CHANNELS_LAST = {"memory_format": torch.channels_last}


def call(case, x, offset, weight, bias, mask):
    return deform_conv2d(x, offset, weight, bias, case.stride, case.padding, case.dilation, mask)


def with_gradients(function, tensors):
    leaves = [t if t is None else t.detach().requires_grad_() for t in tensors]
    out = function(*leaves)
    return out.detach(), *torch.autograd.grad(out.sin().sum(), [t for t in leaves if t is not None])


@settings(max_examples=40)
@given(data=st.data(), channels_last=st.booleans())
def test_it_is_the_reference(cases, data, channels_last):
    case = data.draw(cases)
    tensors = case.tensors()
    if channels_last:
        tensors[0] = tensors[0].to(**CHANNELS_LAST)
    own = with_gradients(lambda *t: call(case, *t), tensors)
    wanted = with_gradients(lambda *t: deform_conv2d_reference(*t, case.options), tensors)
    torch.testing.assert_close(own, wanted, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("modulated", [False, True])
def test_every_type_has_the_accuracy_that_it_can(new_case, dtype, modulated):
    """The sum is that of float32 however long it is; the result is rounded once."""
    case = new_case(channels=96, mask=modulated)
    tensors = case.tensors(dtype)
    own = with_gradients(lambda *t: call(case, *t), tensors)
    wide = [t if t is None else t.double() for t in tensors]
    wanted = with_gradients(lambda *t: deform_conv2d_reference(*t, case.options), wide)
    # sin()'s slope is taken at the rounded output, so gradients are compared with looser bounds.
    step = torch.finfo(dtype).eps
    for index, (ours, exact) in enumerate(zip(own, wanted, strict=True)):
        assert ours.dtype == dtype
        scale = float(exact.abs().max())
        bound = (4 if index else 1) * max(step, 1e-6) * (scale if index else 1)
        torch.testing.assert_close(ours.double(), exact, rtol=step if not index else 0, atol=20 * bound)


def test_the_input_may_be_channels_last_and_other_tensors_anything(new_case):
    case = new_case()
    x, *others = case.tensors()
    wanted = call(case, x, *others)
    for same in (x.to(**CHANNELS_LAST), x.mT.contiguous().mT, x.repeat(1, 1, 1, 2)[..., : x.shape[3]]):
        strange = [t if t is None else t.flip(0).contiguous().flip(0) for t in others]
        strange[0] = strange[0].to(**CHANNELS_LAST)
        torch.testing.assert_close(call(case, same, *strange), wanted)
    out = call(case, x.to(**CHANNELS_LAST).requires_grad_(), *others)
    assert out.is_contiguous(**CHANNELS_LAST) and not out.is_contiguous()
    assert wanted.is_contiguous()


@settings(max_examples=40)
@given(data=st.data(), wild=st.booleans())
def test_samples_on_pixels_on_the_border_and_beyond_it(cases, data, wild):
    """Where the derivative jumps, all agree on the side that counts; what sees nothing moves nothing."""
    case = data.draw(cases)
    tensors = case.edges(wild)
    own = with_gradients(lambda *t: call(case, *t), tensors)
    wanted = with_gradients(lambda *t: deform_conv2d_reference(*t, case.options), tensors)
    torch.testing.assert_close(own, wanted, atol=1e-11, rtol=1e-11)


def test_an_empty_batch(new_case):
    case = new_case(batch=0)
    tensors = [t.requires_grad_() for t in case.tensors(torch.float32)]
    out = call(case, *tensors)
    assert out.shape == (0, 4, 4, 3)
    out.sum().backward()
    assert all(not t.grad.any() and t.grad.shape == t.shape for t in tensors)


@pytest.mark.parametrize("needed", ["bias", "input", "weight", "offset", "mask"])
def test_only_what_is_asked_for_gets_a_gradient_and_only_what_it_needs_is_kept(new_case, needed):
    case = new_case()
    names = ["input", "offset", "weight", "bias", "mask"]
    tensors = dict(zip(names, case.tensors(), strict=True))
    tensors[needed].requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        out = call(case, *tensors.values())
    assert len(saved) == (0 if needed == "bias" else 4)
    assert {t.data_ptr() for t in saved} <= {t.data_ptr() for t in tensors.values()}  # nothing new is kept
    out.sum().backward()
    assert [name for name, t in tensors.items() if t.grad is not None] == [needed]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_what_comes_in_any_type(new_case, dtype):
    case = new_case()
    tensors = [t.requires_grad_() for t in case.tensors(torch.float32)]
    with torch.autocast("cpu", dtype):
        mixed = [tensors[0].to(dtype), *tensors[1:]]
        out = call(case, *mixed)
        assert out.dtype == dtype
        torch.testing.assert_close(out, call(case, *(t.to(dtype) for t in tensors)))
    out.float().sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in tensors)


def test_deterministic_gradients(new_case, deterministic):
    case = new_case()
    own = with_gradients(lambda *t: call(case, *t), case.tensors())
    again = with_gradients(lambda *t: call(case, *t), case.tensors())
    torch.testing.assert_close(own, again, atol=0, rtol=0)


REFUSED = {
    "type": (lambda t: [t[0].float(), *t[1:]], "is torch.float64.*is torch.float32"),
    "integers": (lambda t: [t[0].int(), *t[1:]], r"input of shape \(2, 4, 4, 3\) is torch.int32"),
    "device": (lambda t: [*t[:2], t[2].to("meta"), *t[3:]], "meta.*cpu"),
    "dimensions": (lambda t: [t[0][0], *t[1:]], r"input of shape \(4, 4, 3\) must have 4 dimensions"),
    "offset size": (
        lambda t: [t[0], t[1][..., 1:], *t[2:]],
        r"offset has shape \(2, 36, 4, 2\), not \(2, 36, 4, 3\).*\(2, 4, 4, 3\).*\(4, 2, 3, 3\)",
    ),
    "offset batch": (lambda t: [t[0], t[1][:1], *t[2:]], r"offset has shape \(1, .*not \(2,"),
    "offset channels": (lambda t: [t[0], t[1][:, 1:], *t[2:]], r"offset of shape \(2, 35, 4, 3\)"),
    "deformable groups": (
        lambda t: [t[0], t[1].repeat(1, 2, 1, 1)[:, :54], *t[2:]],
        r"offset of shape \(2, 54, 4, 3\).*divide the 4 input channels",
    ),
    "groups": (
        lambda t: [*t[:2], t[2][:3], *t[3:]],
        r"groups, for an input of shape \(2, 4, 4, 3\) and a weight of shape \(3, 2, 3, 3\)",
    ),
    "channels": (lambda t: [t[0][:, :3], *t[1:]], r"groups, for an input of shape \(2, 3,"),
    "empty weight": (lambda t: [*t[:2], t[2][:, :0], *t[3:]], r"no elements: shape \(4, 0, 3, 3\)"),
    "bias": (lambda t: [*t[:3], t[3][1:], t[4]], r"bias has shape \(3,\), not \(4,\)"),
    "mask": (lambda t: [*t[:4], t[4][:, 1:]], r"mask has shape \(2, 17, 4, 3\), not \(2, 18, 4, 3\)"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line_with_both_shapes(new_case, what):
    spoil, message = REFUSED[what]
    case = new_case()
    tensors = case.tensors()
    given = spoil(tensors)
    with pytest.raises(ArgumentError, match=message) as caught:
        call(case, *given)
    assert isinstance(caught.value, ConvbodyError) and isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    names_both(str(caught.value), tensors, given)


@pytest.mark.parametrize("what", sorted({*REFUSED} - {"device"}))  # decides which kernel is called
def test_exported_programs_call_the_kernel_itself_which_refuses_the_same(new_case, what):
    case = new_case()
    tensors = case.tensors()
    given = REFUSED[what][0](tensors)
    with pytest.raises((RuntimeError, ValueError), match="deform_conv2d: ") as caught:
        torch.ops.convbody.deform_conv2d(*given, *case.options)
    names_both(str(caught.value), tensors, given)


def names_both(message, tensors, given):
    """Asserts that the message has the shape of what was spoiled, and that of the input."""
    (spoiled,) = [new for old, new in zip(tensors, given, strict=True) if old is not new]
    for tensor in (spoiled, given[0]):
        assert str(tuple(tensor.shape)) in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride is 0; it must be at least 1"),
        ({"padding": (1, -1)}, "padding is -1; it must be at least 0"),
        ({"dilation": 2**31}, "dilation is 2147483648; it must be at least 1 and below"),
        ({"dilation": 9}, re.escape("the input is too small")),
    ],
)
def test_options_that_make_no_sense_are_refused(new_case, options, message):
    x, offset, weight, bias, mask = new_case().tensors()
    with pytest.raises(ArgumentError, match=message):
        deform_conv2d(x, offset, weight, bias, **options, mask=mask)
