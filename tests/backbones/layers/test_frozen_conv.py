"""A convolution and its frozen norm run as one convolution, and nobody can tell but by the clock."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from backbones.layers.conv import conv_norm
from backbones.layers.frozen_conv import frozen_conv_norm
from backbones.layers.norm import FrozenBatchNorm2d


def randomised(norm, generator):
    for name, tensor in norm.state_dict().items():
        if name != "num_batches_tracked":
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return norm


def pair(dtype=torch.float64, norm=FrozenBatchNorm2d, **options):
    """A convolution of 4 channels to 6 and a norm with statistics of its own."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, **{"kernel_size": 3, "bias": False} | options)
    return conv.to(dtype), randomised(norm(6), generator).to(dtype).eval()


def image(dtype=torch.float64, size=(7, 8), **options):
    return torch.randn(2, 4, *size, dtype=dtype, generator=torch.Generator().manual_seed(2), **options)


@settings(deadline=None, max_examples=30)
@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    frozen=st.booleans(),
)
def test_values_and_gradients_are_those_of_the_two(kernel, stride, padding, dilation, groups, bias, frozen):
    conv, norm = pair(
        kernel_size=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=bias
    )
    conv.requires_grad_(not frozen)
    results = []
    for run in (frozen_conv_norm, lambda conv, norm, x: norm(conv(x))):
        x = image(requires_grad=True)
        y = run(conv, norm, x)
        wanted = [x, *(() if frozen else conv.parameters())]
        results.append((y.detach(), *torch.autograd.grad(y.square().sum(), wanted)))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)


def test_it_can_be_differentiated_twice():
    conv, norm = pair(bias=True)
    x = image(requires_grad=True)

    def run(x, weight, bias):
        return torch.func.functional_call(Both(conv, norm), {"conv.weight": weight, "conv.bias": bias}, (x,))

    assert torch.autograd.gradgradcheck(run, (x, conv.weight, conv.bias), atol=1e-6)


class Both(nn.Module):
    def __init__(self, conv, norm):
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, x):
        return conv_norm(self.conv, self.norm, x)


def test_only_input_and_weight_are_kept_for_the_backward_pass():
    conv, norm = pair()
    x, kept = image(requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        conv_norm(conv, norm, x)
    big = {t.data_ptr() for t in kept if t.dim() == 4}
    assert big == {x.data_ptr(), conv.weight.data_ptr()}


def loaded(conv, norm):
    conv.load_state_dict({"weight": conv.weight * 2})


def edited_through_data(conv, norm):
    conv.weight.data[-1] *= 0.5  # one filter, and no version of the tensor counts it


def edited_through_a_view(conv, norm):
    conv.weight.data[3:4].view(-1)[::2].zero_()


def edited_through_numpy(conv, norm):
    conv.weight.detach().numpy()[2, 1] += 1


def edited_through_a_detached_tensor(conv, norm):
    conv.weight.detach()[5].neg_()


def two_filters_swapped(conv, norm):
    conv.weight.data[[1, 4]] = conv.weight.data[[4, 1]]


def changed_in_place(conv, norm):
    conv.weight.mul_(1.5)


def copied_into(conv, norm):
    conv.weight.copy_(conv.weight.flip(0))


def set_to_other_memory(conv, norm):
    conv.weight.set_(conv.weight.detach().flip(1).contiguous())


def given_other_data(conv, norm):
    conv.weight.data = conv.weight.data.flip(2).contiguous()


def given_another_parameter(conv, norm):
    conv.weight = nn.Parameter(conv.weight.detach().clone() + 1)


def stepped(conv, norm):
    conv.weight.grad = torch.ones_like(conv.weight)
    torch.optim.SGD([conv.weight], lr=0.5).step()


def parametrized(conv, norm):
    nn.utils.parametrize.register_parametrization(conv, "weight", nn.Tanh())


def normed(conv, norm):
    torch.nn.utils.weight_norm(conv)
    conv.weight_g.mul_(3)


def moved_to_channels_last(conv, norm):
    conv.to(memory_format=torch.channels_last)
    conv.weight.data[-1] *= 2


def given_statistics(conv, norm):
    norm.running_var.data[-1] *= 3


def given_a_scale(conv, norm):
    norm.weight.data = norm.weight.data * 2


def changed_type(conv, norm):
    conv.float()
    norm.float()


CHANGES = [
    *[
        loaded,
        edited_through_data,
        edited_through_a_view,
        edited_through_numpy,
        edited_through_a_detached_tensor,
    ],
    *[two_filters_swapped, changed_in_place, copied_into, set_to_other_memory, given_other_data],
    *[given_another_parameter, stepped, parametrized, normed, moved_to_channels_last],
    *[given_statistics, given_a_scale, changed_type],
]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("size", [(7, 8), (2, 2)], ids=["the weight is scaled", "the output is scaled"])
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "without autograd"])
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_counts_at_once(change, size, frozen):
    conv, norm = pair(padding=1)
    conv.requires_grad_(not frozen)
    with torch.set_grad_enabled(frozen):
        before = conv_norm(conv, norm, image(size=size))
    with torch.no_grad():
        change(conv, norm)
        x = image(conv.weight.dtype, size=size)
        wanted = norm(conv(x))
    with torch.set_grad_enabled(frozen):
        after = conv_norm(conv, norm, x)
    torch.testing.assert_close(after, wanted)
    assert change is changed_type or not torch.allclose(after, before)


@settings(deadline=None, max_examples=30)
@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    residual=st.booleans(),
    relu=st.booleans(),
    size=st.tuples(st.integers(3, 6), st.integers(3, 6)),
)
def test_without_autograd_values_are_those_of_the_two(kernel, stride, groups, bias, residual, relu, size):
    conv, norm = pair(kernel_size=kernel, stride=stride, groups=groups, bias=bias)
    x = image(size=size)
    with torch.no_grad():
        wanted = norm(conv(x))
        other = torch.ones_like(wanted) if residual else None
        found = frozen_conv_norm(conv, norm, x, other, relu)
    wanted = wanted + 1 if residual else wanted
    torch.testing.assert_close(found, wanted.relu() if relu else wanted, rtol=1e-11, atol=1e-11)


def test_training_goes_on_after_inference_mode():
    conv, norm = pair()
    conv.requires_grad_(False)
    with torch.inference_mode():
        conv_norm(conv, norm, image())
    x = image(requires_grad=True)
    conv_norm(conv, norm, x).sum().backward()
    assert x.grad is not None


def test_under_autocast_the_output_has_its_type_and_the_weight_gets_its_gradient():
    conv, norm = pair(torch.float32)
    x = image(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv_norm(conv, norm, x)
    assert y.dtype is torch.bfloat16
    y.float().square().mean().backward()
    assert conv.weight.grad.dtype is torch.float32
    reference = copy.deepcopy(conv)
    reference.weight.grad = None
    norm(reference(x)).square().mean().backward()
    error = (conv.weight.grad - reference.weight.grad).norm() / reference.weight.grad.norm()
    assert error < 0.02
    torch.testing.assert_close(y.float(), norm(reference(x)), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FrozenBatchNorm2d])
def test_batch_norm_joins_once_it_stands_still(norm):
    conv, norm = pair(norm=norm)
    with torch.no_grad():
        torch.testing.assert_close(frozen_conv_norm(conv, norm, image()), norm(conv(image())))


def test_what_moves_learns_or_is_watched_stays_two():
    x = image()
    conv, norm = pair(norm=nn.BatchNorm2d)
    assert frozen_conv_norm(conv, norm, x) is None  # its weight learns
    norm.requires_grad_(False)
    assert frozen_conv_norm(conv, norm, x) is not None
    assert frozen_conv_norm(conv, norm.train(), x) is None  # its statistics move
    assert frozen_conv_norm(conv, nn.GroupNorm(2, 6).double(), x) is None
    conv, norm = pair(padding=1, padding_mode="reflect")
    assert frozen_conv_norm(conv, norm, x) is None
    conv, norm = pair()
    seen = []
    handle = conv.register_forward_hook(lambda module, args, out: seen.append(out))
    torch.testing.assert_close(conv_norm(conv, norm, x), norm(seen[0]))
    handle.remove()
    conv_norm(conv, norm, x)
    assert len(seen) == 1


@pytest.mark.parametrize("training", [False, True])
def test_it_compiles_and_exports_whole(training):
    conv, norm = pair(torch.float32)
    module, x = Both(conv, norm), image(torch.float32)
    conv.requires_grad_(training)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), norm(conv(x)))
    exported = torch.export.export(module, (x,)).module()
    torch.testing.assert_close(exported(x), norm(conv(x)))
    if training:
        compiled(x).sum().backward()
        ours = conv.weight.grad.clone()
        conv.weight.grad = None
        norm(conv(x)).sum().backward()
        torch.testing.assert_close(ours, conv.weight.grad)
