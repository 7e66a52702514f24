"""Derivatives beyond the first, forwards, and over many gradients or weights at once."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from backbones.ops import deform_conv2d
from backbones.ops.deform_conv_reference import deform_conv2d_reference

CASES = [{}, {"groups": 1, "deformable_groups": 4, "mask": False, "bias": False, "stride": (2, 1)}]


def functions(case):
    """The operator and its reference, of the tensors of the case."""

    def own(x, offset, weight, bias, mask):
        return deform_conv2d(x, offset, weight, bias, case.stride, case.padding, case.dilation, mask)

    return own, lambda *tensors: deform_conv2d_reference(*tensors, case.options)


def leaves(case):
    return [t if t is None else t.requires_grad_() for t in case.tensors()]


@pytest.mark.parametrize("options", CASES)
def test_first_and_second_derivatives_backwards_and_forwards(new_case, options):
    case = new_case(**options)
    own, _ = functions(case)
    assert gradcheck(own, leaves(case), fast_mode=True, check_forward_ad=True)
    assert gradgradcheck(own, leaves(case), fast_mode=True, check_fwd_over_rev=True)


def test_the_third_derivative(new_case):
    case = new_case()
    found = []
    for function in functions(case):
        tensors = leaves(case)
        value = function(*tensors).sin().sum()
        for _ in range(2):
            value = sum(g.sin().sum() for g in torch.autograd.grad(value, tensors, create_graph=True))
        found.append(torch.autograd.grad(value, tensors))
    torch.testing.assert_close(*found)


def test_a_tangent_is_not_lost_without_gradients(new_case):
    case = new_case()
    tensors = case.tensors()
    tangents = [torch.randn_like(t) for t in tensors]
    found = []
    for function in functions(case):
        with forward_ad.dual_level(), torch.no_grad():
            duals = [forward_ad.make_dual(t, d) for t, d in zip(tensors, tangents, strict=True)]
            found.append(forward_ad.unpack_dual(function(*duals)).tangent)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev, torch.func.jacfwd])
def test_torch_func(new_case, transform):
    case = new_case()
    x, *others = case.tensors()
    own, reference = (transform(lambda x, f=f: f(x, *others).sin().sum())(x) for f in functions(case))
    torch.testing.assert_close(own, reference)


@pytest.mark.parametrize("which", [(0,), (1, 4), (2,), (3,), (0, 2), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("dim", [0, 1])
def test_vmap_over_any_tensors(new_case, which, dim):
    if dim and 3 in which:
        pytest.skip("a bias has one dimension")
    case = new_case()
    own, _ = functions(case)
    tensors = case.tensors()
    dims = tuple(dim if i in which else None for i in range(5))
    batch = [
        torch.stack([t, t * 0.5, t - 0.1], dim) if d is not None else t
        for t, d in zip(tensors, dims, strict=True)
    ]
    wanted = [
        own(*(t.select(d, i) if d is not None else t for t, d in zip(batch, dims, strict=True)))
        for i in range(3)
    ]
    torch.testing.assert_close(torch.vmap(own, in_dims=dims)(*batch), torch.stack(wanted))


@pytest.mark.parametrize("options", CASES)
def test_many_gradients_at_once(new_case, options):
    case = new_case(**options)
    own, _ = functions(case)
    tensors = leaves(case)
    present = [t for t in tensors if t is not None]
    out = own(*tensors)
    grads = torch.randn(3, *out.shape, dtype=out.dtype)
    at_once = torch.autograd.grad(out, present, grads, retain_graph=True, is_grads_batched=True)
    each = [torch.autograd.grad(out, present, g, retain_graph=True) for g in grads]
    torch.testing.assert_close(at_once, tuple(torch.stack(g) for g in zip(*each, strict=True)))


def test_gradients_of_each_sample(new_case):
    """As in differential privacy: one gradient of the weight per image."""
    case = new_case(batch=3)
    own, _ = functions(case)
    x, offset, weight, bias, mask = case.tensors()

    def loss(weight, x, offset, mask):
        return own(x[None], offset[None], weight, bias, mask[None]).sin().sum()

    found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))(weight, x, offset, mask)
    wanted = [torch.func.grad(loss)(weight, *sample) for sample in zip(x, offset, mask, strict=True)]
    torch.testing.assert_close(found, torch.stack(wanted))
