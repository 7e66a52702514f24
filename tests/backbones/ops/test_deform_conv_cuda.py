"""The CUDA kernels, where there is a GPU: values and gradients of the reference, computed in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from backbones.ops import deform_conv2d, status
from backbones.ops.deform_conv_reference import deform_conv2d_reference

pytestmark = pytest.mark.gpu
CHANNELS_LAST = {"memory_format": torch.channels_last}
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}


@pytest.fixture(autouse=True)
def extension():
    if status()["cuda"] != "the extension":
        pytest.skip(status()["cuda"])


def on_gpu(tensors):
    return [None if t is None else t.detach().cuda().requires_grad_() for t in tensors]


def results(case, tensors, grad):
    """Output and gradients, on the CPU."""
    x, offset, weight, bias, mask = tensors
    out = deform_conv2d(x, offset, weight, bias, case.stride, case.padding, case.dilation, mask)
    grads = torch.autograd.grad(out, [t for t in tensors if t is not None], grad.to(out))
    return [t.detach().cpu() for t in (out, *grads)]


def expected(case, tensors, grad):
    wide = [None if t is None else t.detach().double().requires_grad_() for t in tensors]
    out = deform_conv2d_reference(*wide, case.options)
    return [out.detach(), *torch.autograd.grad(out, [t for t in wide if t is not None], grad)]


def assert_near(own, wanted, tolerance):
    for ours, exact in zip(own, wanted, strict=True):
        scale = max(1.0, float(exact.abs().max())) if exact.numel() else 1.0
        torch.testing.assert_close(ours.double(), exact, rtol=tolerance, atol=tolerance * scale)


@settings(max_examples=60)
@given(data=st.data(), channels_last=st.booleans(), deterministic=st.booleans())
def test_it_is_the_reference_for_every_geometry(cases, data, channels_last, deterministic):
    case = data.draw(cases)
    dtype = data.draw(st.sampled_from(list(TOLERANCES)))
    tensors = case.tensors(dtype)
    moved = on_gpu(tensors)
    if channels_last:
        moved[0] = moved[0].detach().to(**CHANNELS_LAST).requires_grad_()
    wanted = deform_conv2d_reference(*tensors, case.options)
    grad = torch.randn(wanted.shape).to(dtype)
    torch.use_deterministic_algorithms(deterministic)
    try:
        own = results(case, moved, grad)
    finally:
        torch.use_deterministic_algorithms(False)
    assert own[0].stride() == (wanted.to(**CHANNELS_LAST) if channels_last else wanted).stride()
    assert_near(own, expected(case, tensors, grad.double()), TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_many_tiles(new_case, dtype):
    """More positions and channels than a tile has, in groups that no tile fits."""
    case = new_case(channels=264, out_channels=130, deformable_groups=3, out_size=(23, 19))
    tensors = case.tensors(dtype)
    grad = torch.randn(2, 260, 23, 19).to(dtype)
    # Sums of thousands of terms: gradients of the weight lose as many digits again.
    assert_near(
        results(case, on_gpu(tensors), grad),
        expected(case, tensors, grad.double()),
        4 * TOLERANCES[dtype],
    )


def test_gradients_are_the_same_bits_where_that_is_asked_for(new_case, deterministic):
    case = new_case(channels=64, out_size=(31, 29))
    tensors = on_gpu(case.tensors(torch.float32))
    grad = torch.randn(2, 4, 31, 29)
    first = results(case, tensors, grad)
    for _ in range(3):
        torch.testing.assert_close(results(case, tensors, grad), first, rtol=0, atol=0)


def test_an_empty_batch(new_case):
    case = new_case(batch=0)
    own = results(case, on_gpu(case.tensors(torch.float32)), torch.zeros(0, 4, 4, 3))
    assert own[0].shape == (0, 4, 4, 3)
    assert not any(t.any() for t in own)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(new_case, dtype):
    case = new_case()
    tensors = on_gpu(case.tensors(torch.float32))
    with torch.autocast("cuda", dtype):
        own = results(case, tensors, torch.ones(2, 4, 4, 3))
    assert own[0].dtype == dtype and own[1].dtype == torch.float32


def test_opcheck(new_case):
    case = new_case()
    opcheck(torch.ops.convbody.deform_conv2d.default, (*on_gpu(case.tensors(torch.float32)), *case.options))


def test_tensors_on_two_devices_are_refused(new_case):
    x, offset, weight, bias, mask = new_case().tensors(torch.float32)
    with pytest.raises(ValueError, match="weight of shape .* on cpu, the input of shape .* on cuda:0"):
        deform_conv2d(x.cuda(), offset.cuda(), weight, bias, 1, 1, 1, mask)
