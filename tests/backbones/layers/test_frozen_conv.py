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


def image(dtype=torch.float64, **options):
    return torch.randn(2, 4, 7, 8, dtype=dtype, generator=torch.Generator().manual_seed(2), **options)


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


def changed_by_loading(conv, norm):
    conv.load_state_dict({"weight": conv.weight * 2})


def changed_through_data(conv, norm):
    conv.weight.data.mul_(0.5)


def changed_by_a_new_weight(conv, norm):
    conv.weight = nn.Parameter(conv.weight.detach().clone() + 1)


def changed_statistics(conv, norm):
    norm.running_var.mul_(3)


def changed_type(conv, norm):
    conv.float()
    norm.float()


@pytest.mark.parametrize(
    "change",
    [changed_by_loading, changed_through_data, changed_by_a_new_weight, changed_statistics, changed_type],
)
@torch.no_grad()
def test_what_is_kept_follows_every_change(change):
    conv, norm = pair()
    before = conv_norm(conv, norm, image())
    change(conv, norm)
    x = image(conv.weight.dtype)
    after = conv_norm(conv, norm, x)
    torch.testing.assert_close(after, norm(conv(x)))
    assert change is changed_type or not torch.allclose(after, before)


def test_training_goes_on_after_inference_mode():
    conv, norm = pair()
    conv.requires_grad_(False)
    with torch.inference_mode():
        conv_norm(conv, norm, image())
    x = image(requires_grad=True)
    conv_norm(conv, norm, x).sum().backward()
    assert x.grad is not None


def test_a_copy_keeps_nothing_of_the_original():
    conv, norm = pair()
    with torch.no_grad():
        conv_norm(conv, norm, image())
        other = copy.deepcopy(conv)
        other.weight.mul_(2)
        torch.testing.assert_close(conv_norm(other, norm, image()), norm(other(image())))


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
