"""torch.compile, torch.export, and PyTorch's own checks of an operator."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim, export
from torch.library import opcheck

from backbones.layers.deform_conv import DFConv2d
from backbones.ops import deform_conv2d

CHANNELS_LAST = {"memory_format": torch.channels_last}


@pytest.fixture
def layers():
    torch._dynamo.reset()
    return nn.Sequential(DFConv2d(4, 6, deformable_groups=2), nn.BatchNorm2d(6), DFConv2d(6, 4, False))


@pytest.mark.parametrize(("options", "channels_last"), [({"mask": False, "bias": False}, False), ({}, True)])
def test_opcheck(new_case, options, channels_last):
    case = new_case(**options)
    x, offset, weight, bias, mask = case.tensors(torch.float32)
    x = x.to(**CHANNELS_LAST) if channels_last else x
    given = [t if t is None else t.requires_grad_() for t in (x, offset, weight, bias, mask)]
    opcheck(torch.ops.convbody.deform_conv2d.default, (*given, *case.options))
    grad = torch.randn(2, 4, *case.out_size)
    arguments = (grad, *given[:3], mask, *case.options, False)
    backward = torch.ops.convbody.deform_conv2d_backward.default
    opcheck(backward, arguments, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))
    # Without gradients of gradients, which take minutes to trace for every size.
    opcheck(backward, tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in arguments))


@settings(max_examples=40)
@given(
    shape=st.tuples(*[st.integers(1, 2)] * 4),
    order=st.permutations(range(4)),
    step=st.sampled_from([1, 2]),
)
def test_the_compiler_knows_the_layout_of_every_result(shape, order, step):
    """Sizes of 1 fit several layouts; the kernels and their description must choose the same."""
    strided = torch.randn([shape[i] * step for i in order]).permute(*(order.index(i) for i in range(4)))
    x = strided[tuple(slice(None, size * step, step) for size in shape)].requires_grad_()
    offset, mask = torch.zeros(shape[0], 2, *shape[2:]), torch.ones(shape[0], 1, *shape[2:])
    weight = torch.ones(3, shape[1], 1, 1).requires_grad_()
    arguments = (x, offset, weight, None, mask, 1, 1, 0, 0, 1, 1)
    opcheck(torch.ops.convbody.deform_conv2d.default, arguments, test_utils="test_faketensor")
    backward = (torch.randn(shape[0], 3, *shape[2:]), x, offset, weight, mask, *arguments[5:], False)
    opcheck(torch.ops.convbody.deform_conv2d_backward.default, backward, test_utils="test_faketensor")


def train_step(module, x):
    module.zero_grad()
    out = module(x)
    out.float().sin().sum().backward()
    return out.detach(), *(p.grad for p in module.parameters())


@torch._dynamo.config.patch(error_on_recompile=True)
def test_compile_in_one_graph_for_any_size(layers):
    compiled = torch.compile(layers, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 4, 8, 9), (3, 4, 10, 7), (2, 4, 6, 6)):
        x = torch.randn(size)
        torch.testing.assert_close(train_step(compiled, x), train_step(layers, x), rtol=1e-5, atol=1e-4)


def test_compile_under_autocast_and_channels_last(layers):
    compiled = torch.compile(layers, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 4, 8, 9).to(**CHANNELS_LAST)
    with torch.autocast("cpu", torch.bfloat16):
        own, eager = compiled(x), layers(x)
    assert own.dtype == torch.bfloat16 and own.stride() == eager.stride()
    torch.testing.assert_close(own, eager)


@pytest.mark.slow
def test_compile_to_machine_code(layers):
    compiled = torch.compile(layers, fullgraph=True, dynamic=True)
    for size in ((2, 4, 8, 9), (3, 4, 10, 7)):
        x = torch.randn(size)
        torch.testing.assert_close(train_step(compiled, x), train_step(layers, x), rtol=1e-4, atol=1e-3)


def test_wrong_shapes_are_refused_while_compiling_too(new_case):
    x, offset, weight, bias, mask = new_case().tensors()
    compiled = torch.compile(deform_conv2d, backend="eager")
    with pytest.raises(Exception, match=r"offset has shape \(2, 36, 4, 2\)"):
        compiled(x, offset[..., 1:], weight, bias, 1, 1, 1, mask)


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_export_for_any_size(layers, strict):
    sizes = {0: Dim("batch"), 2: Dim("height", min=3), 3: Dim("width", min=3)}
    exported = export(layers.eval(), (torch.randn(2, 4, 8, 9),), dynamic_shapes=(sizes,), strict=strict)
    x = torch.randn(3, 4, 11, 6)
    torch.testing.assert_close(exported.module()(x), layers(x))
    names = [str(node.target) for node in exported.run_decompositions().graph.nodes]
    assert names.count("convbody.deform_conv2d.default") == 2
