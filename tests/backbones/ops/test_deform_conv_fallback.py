"""The kernels that serve where the extension does not: torchvision's, and the reference."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backbones.ops import deform_conv_fallback as fallback
from backbones.ops.checks import ArgumentError
from backbones.ops.deform_conv_reference import deform_conv2d_reference, gradients


@pytest.fixture(params=["torchvision", "reference"])
def path(request, monkeypatch):
    if request.param == "reference":
        monkeypatch.setattr(fallback, "_torchvision_serves", lambda device: False)
    return request.param


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), channels_last=st.booleans(), deterministic=st.booleans())
def test_values_gradients_and_layouts_are_those_of_the_extension(
    cases, path, data, channels_last, deterministic
):
    case = data.draw(cases)
    offsets = data.draw(st.sampled_from(["between pixels", "on the edges", "wild"]))
    tensors = case.tensors() if offsets == "between pixels" else case.edges(offsets == "wild")
    x, offset, weight, bias, mask = tensors
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    out = fallback.forward(x, offset, weight, bias, mask, *case.options)
    torch.testing.assert_close(out, deform_conv2d_reference(x, offset, weight, bias, mask, case.options))
    grad = torch.randn_like(out)
    own = fallback.backward(grad, x, offset, weight, mask, *case.options, deterministic)
    torch.testing.assert_close(own, gradients(grad, x, offset, weight, mask, case.options))
    layout = fallback.memory_format(x)
    assert all(t.is_contiguous(memory_format=layout) for t in (out, own[0]))
    assert all(t.is_contiguous() for t in own[1:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_summed_in_float32_also_under_autocast(new_case, path, dtype):
    case = new_case(channels=64)
    tensors = case.tensors(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        out = fallback.forward(*tensors, *case.options)
    exact = fallback.forward(*(t.double() for t in tensors), *case.options)
    torch.testing.assert_close(out, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-4)


def test_an_empty_batch(new_case, path):
    case = new_case(batch=0)
    x, offset, weight, bias, mask = case.tensors()
    out = fallback.forward(x, offset, weight, bias, mask, *case.options)
    assert out.shape == (0, 4, 4, 3)
    found = fallback.backward(out, x, offset, weight, mask, *case.options, False)
    assert [g.shape for g in found] == [x.shape, offset.shape, weight.shape, mask.shape]
    assert not any(g.any() for g in found)


def test_what_does_not_fit_reaches_no_kernel(new_case, path):
    x, offset, weight, bias, mask = new_case().tensors()
    with pytest.raises(ArgumentError, match=r"offset has shape \(2, 36, 4, 2\)"):
        fallback.forward(x, offset[..., 1:], weight, bias, mask, 1, 1, 1, 1, 1, 1)
