"""The reference is torchvision's operator, where that has one."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

from backbones.ops.deform_conv_reference import deform_conv2d_reference


def results(call, tensors):
    """The value, and the gradients of all tensors."""
    tensors = [t if t is None else t.detach().requires_grad_() for t in tensors]
    out = call(*tensors)
    return [out.detach(), *torch.autograd.grad(out.sin().sum(), [t for t in tensors if t is not None])]


@settings(max_examples=60)
@given(data=st.data(), halves=st.booleans())
def test_values_and_gradients_are_those_of_torchvision(cases, data, halves):
    case = data.draw(cases)
    tensors = case.edges(wild=False) if halves else case.tensors()
    ours = results(lambda *t: deform_conv2d_reference(*t, case.options), tensors)
    options = (case.stride, case.padding, case.dilation)
    theirs = results(lambda x, o, w, b, m: torchvision_deform_conv2d(x, o, w, b, *options, m), tensors)
    if halves:  # torchvision's offsets have a gradient where samples are zero, a pixel before the image
        del ours[2], theirs[2]
    torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)


def test_what_lies_outside_is_zero_and_has_no_gradient(new_case):
    case = new_case(kernel=(1, 1), padding=(0, 0), bias=False, deformable_groups=1)
    x, offset, weight, _, mask = case.tensors()
    for value in (-1e30, 1e30, float("inf"), float("-inf"), float("nan")):
        far = torch.full_like(offset, value).requires_grad_()
        out = deform_conv2d_reference(x, far, weight, None, mask, case.options)
        (grad,) = torch.autograd.grad(out.sum(), far)
        assert not out.any() and not grad.any()


def test_half_types_are_summed_in_float32_and_rounded_once(new_case):
    case = new_case()
    for dtype in (torch.float16, torch.bfloat16):
        rounded = case.tensors(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            out = deform_conv2d_reference(*rounded, case.options)
        exact = deform_conv2d_reference(*(t.double() for t in rounded), case.options)
        assert out.dtype == dtype
        torch.testing.assert_close(out, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)
