import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.ops.activated_norm import ACTIVATIONS, activated_batch_norm, away_from_zero
from registry import ConvbodyError

EPS = 1e-5


def reference(x, weight, bias, activation, slope):
    z = F.batch_norm(x, None, None, weight, bias, training=True, eps=EPS)
    if activation == "identity":
        return z
    return F.leaky_relu(z, slope) if activation == "leaky_relu" else F.elu(z)


def inputs(dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 8, 5, 7, generator=generator, dtype=dtype)
    weight = torch.rand(8, generator=generator, dtype=dtype) + 0.5
    weight[::2] *= -1
    return x.requires_grad_(), weight.requires_grad_(), torch.randn(8, generator=generator, dtype=dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_is_batch_norm_and_activation_with_their_gradients(activation):
    tensors = [t.detach().requires_grad_() for t in inputs(torch.float32)]
    others = [t.detach().clone().requires_grad_() for t in tensors]
    y, mean, var = activated_batch_norm(*tensors, EPS, activation, 0.01)
    wanted = reference(*others, activation, 0.01)
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close((mean, var), (others[0].mean((0, 2, 3)), others[0].var((0, 2, 3))))
    factors = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    (y * factors).sum().backward()
    (wanted * factors).sum().backward()
    for own, other in zip(tensors, others, strict=True):
        torch.testing.assert_close(own.grad, other.grad, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_finite_differences(activation):
    x, weight, bias = inputs(torch.float64)
    x = x.detach()[:, :, :2, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *t: activated_batch_norm(*t, EPS, activation, 0.01)[0], (x, weight, bias.requires_grad_())
    )


@settings(deadline=None, max_examples=30)
@given(
    slope=st.floats(1e-3, 1),
    size=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(2, 6)),
    seed=st.integers(0, 1000),
)
def test_inversion_holds_for_any_slope_and_shape(slope, size, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, generator=generator, dtype=torch.float64)
    weight, bias = torch.randn(2, size[1], generator=generator, dtype=torch.float64)
    grads = []
    for call in (
        lambda *t: activated_batch_norm(*t, EPS, "leaky_relu", slope)[0],
        lambda *t: reference(*t, "leaky_relu", slope),
    ):
        leaves = [t.clone().requires_grad_() for t in (x, away_from_zero(weight, 1e-2), bias)]
        grads.append(torch.autograd.grad(call(*leaves).sin().sum(), leaves))
    torch.testing.assert_close(grads[0], grads[1], atol=1e-7, rtol=1e-7)


def test_a_weight_of_zero_acts_as_epsilon_and_still_learns():
    x, weight, bias = inputs(torch.float32)
    weight = torch.tensor([0.0, -0.0, 1e-9, -1e-9, EPS, -EPS, 0.5, -0.5])
    wanted = torch.tensor([EPS, EPS, EPS, -EPS, EPS, -EPS, 0.5, -0.5])
    torch.testing.assert_close(away_from_zero(weight, EPS), wanted, atol=0, rtol=0)
    weight, bias = weight.requires_grad_(), torch.zeros(8)
    y, _, _ = activated_batch_norm(x, weight, bias, EPS, "identity", 1.0)
    y.backward(x.detach())
    assert x.grad.isfinite().all()
    # dy / dweight is the normalised input, also where the weight is nothing.
    normalised = F.batch_norm(x.detach(), None, None, training=True, eps=EPS)
    torch.testing.assert_close(weight.grad, (normalised * x.detach()).sum((0, 2, 3)), rtol=1e-4, atol=1e-4)


def test_elu_far_left_of_zero_has_finite_gradients():
    x = torch.tensor([-200.0, 200.0]).repeat(8).view(1, 1, 4, 4).requires_grad_()
    y, _, _ = activated_batch_norm(x, torch.full((1,), 100.0), torch.zeros(1), EPS, "elu", 1.0)
    y.sum().backward()
    assert x.grad.isfinite().all()


def test_second_derivatives_are_refused():
    x, weight, bias = inputs(torch.float64)
    y, _, _ = activated_batch_norm(x, weight, bias, EPS, "leaky_relu", 0.01)
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


def test_an_output_changed_in_place_is_an_error():
    y, _, _ = activated_batch_norm(*inputs(torch.float32), EPS, "identity", 0.01)
    y.relu_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("shape", [(0, 8, 4, 4), (1, 8, 1, 1), (2, 8, 0, 4)])
def test_a_batch_without_statistics_is_one_line(shape):
    with pytest.raises(ConvbodyError, match=r"at least two values per channel.*evaluation mode") as caught:
        activated_batch_norm(torch.zeros(shape), torch.ones(8), torch.zeros(8), EPS, "identity", 0.01)
    assert "\n" not in str(caught.value)
