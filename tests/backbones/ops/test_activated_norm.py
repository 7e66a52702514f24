from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.ops import activated_norm, activated_norm_fallback
from backbones.ops.activated_norm import ACTIVATIONS, activated_batch_norm
from backbones.ops.activated_norm_fallback import away_from_zero
from registry import ConvbodyError

EPS = 1e-5


@pytest.fixture(autouse=True, scope="module", params=["operators", "fallback"])
def kernels(request):
    """The operators, which the extension serves where it is built, and what serves without it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "fallback":
            without = SimpleNamespace(
                activated_norm_statistics=activated_norm_fallback.statistics,
                activated_norm=activated_norm_fallback.forward,
                activated_norm_sums=activated_norm_fallback.sums,
                activated_norm_backward=activated_norm_fallback.backward,
            )
            patch.setattr(activated_norm, "_ops", without)
        yield


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


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_half_types_are_computed_in_float32(dtype, tolerance, layout):
    x, weight, bias = (t.detach() for t in inputs(torch.float32))
    leaves = [x.to(dtype, memory_format=layout).requires_grad_(), weight.requires_grad_(), bias]
    y, mean, _ = activated_batch_norm(*leaves, EPS, "leaky_relu", 0.1)
    y.float().square().sum().backward()
    others = [leaves[0].detach().float().requires_grad_(), weight.detach().clone().requires_grad_(), bias]
    reference(*others, "leaky_relu", 0.1).square().sum().backward()
    assert y.dtype == leaves[0].grad.dtype == dtype
    assert mean.dtype == weight.grad.dtype == torch.float32
    assert y.is_contiguous(memory_format=layout)
    assert leaves[0].grad.is_contiguous(memory_format=layout)
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(leaves[0].grad.float(), others[0].grad, **close)
    torch.testing.assert_close(weight.grad, others[1].grad, rtol=tolerance, atol=10 * tolerance)


def test_a_network_of_a_half_type_has_parameters_of_it():
    x, weight, bias = (t.detach().bfloat16().requires_grad_() for t in inputs(torch.float32))
    y, _, _ = activated_batch_norm(x, weight, bias, EPS, "leaky_relu", 0.1)
    y.float().square().sum().backward()
    assert y.dtype == weight.grad.dtype == bias.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1e3, 1e15])
def test_values_of_any_size(scale):
    x, weight, bias = (t.detach() for t in inputs(torch.float32))
    factors = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    leaf, other = (x * scale).requires_grad_(), (x * scale).double().requires_grad_()
    y, _, _ = activated_batch_norm(leaf, weight, bias, EPS, "leaky_relu", 0.1)
    wanted = reference(other, weight.double(), bias.double(), "leaky_relu", 0.1)
    (y * factors).sum().backward()
    (wanted * factors).sum().backward()
    torch.testing.assert_close(y.double(), wanted, rtol=1e-5, atol=1e-5)
    size = other.grad.abs().max()
    torch.testing.assert_close(leaf.grad.double() / size, other.grad / size, rtol=1e-4, atol=1e-5)


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


@pytest.mark.slow
def test_it_compiles_whole_for_any_batch():
    torch._dynamo.reset()
    _, weight, bias = (t.detach() for t in inputs(torch.float32))

    def call(x):
        return activated_batch_norm(x, weight, bias, EPS, "leaky_relu", 0.1)[0].sin()

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=True)
    for count in (3, 4):
        x = torch.randn(count, 8, 5, count, generator=torch.Generator().manual_seed(count))
        leaves = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [compiled(leaves[0]), call(leaves[1])]
        torch.testing.assert_close(*outputs)
        for y in outputs:
            y.sum().backward()
        torch.testing.assert_close(leaves[0].grad, leaves[1].grad)
