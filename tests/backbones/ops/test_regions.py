"""RoIAlign against torchvision's operator, and what only ours does."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.library import opcheck
from torchvision import ops

from backbones.ops import regions, roi_align
from backbones.ops.checks import ArgumentError
from backbones.ops.library import absent

LAYOUTS = (torch.contiguous_format, torch.channels_last)
compiled = pytest.mark.skipif(bool(absent("cpu")), reason=f"the extension is absent: {absent('cpu')}")


def draw(seed, images, channels, size, boxes, dtype=torch.float32, layout=torch.contiguous_format):
    """Images, and boxes of every kind around them: inside, over the borders, outside, without extent."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, channels, *size, generator=generator, dtype=torch.float64)
    reach = torch.tensor([size[1], size[0]] * 2)
    corners = (torch.rand(boxes, 4, generator=generator, dtype=torch.float64) * 2 - 0.5) * reach
    corners[:, 2:] = torch.maximum(corners[:, :2], corners[:, 2:])
    index = torch.randint(0, images, (boxes, 1), generator=generator)
    return x.to(dtype, memory_format=layout), torch.cat([index, corners], 1).to(dtype)


def with_gradient(function, x: Tensor, *arguments) -> tuple[Tensor, Tensor]:
    """What the function returns, and the gradient of a sum with weights."""
    x = x.detach().requires_grad_()
    out = function(x, *arguments)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return out.detach(), torch.autograd.grad(out, x, weights)[0]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.tuples(st.integers(1, 40), st.integers(1, 40))),
    boxes=st.integers(0, 6),
    size=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    scale=st.sampled_from([0.25, 0.3, 1.0, 2.0]),
    ratio=st.integers(-1, 4),
    aligned=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    layout=st.sampled_from(LAYOUTS),
)
def test_it_is_torchvisions(seed, shape, boxes, size, scale, ratio, aligned, dtype, layout):
    x, rois = draw(seed, *shape, boxes, dtype, layout)
    options = (rois, size, scale, ratio, aligned)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    wanted = with_gradient(ops.roi_align, x.contiguous(), *options)
    torch.testing.assert_close(with_gradient(roi_align, x, *options), wanted, atol=tolerance, rtol=tolerance)


@compiled
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_in_float32(dtype, layout):
    x, rois = draw(0, 2, 20, (17, 30), 9, dtype, layout)
    out, grad = with_gradient(roi_align, x, rois.float(), 5, 0.5)
    wide = roi_align(x.float(), rois.float(), 5, 0.5)
    torch.testing.assert_close(out, wide.to(dtype), atol=0, rtol=0)
    weights = torch.linspace(-1, 1, out.numel(), dtype=dtype).view(out.shape).float()
    leaf = x.float().requires_grad_()
    exact = torch.autograd.grad(roi_align(leaf, rois.float(), 5, 0.5), leaf, weights)[0]
    torch.testing.assert_close(grad, exact.to(dtype), atol=0, rtol=0)


@compiled
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_gradient_is_the_derivative_and_so_is_that_of_the_gradient(layout):
    x, rois = draw(3, 2, 3, (6, 7), 3, torch.float64, layout)

    def call(x: Tensor) -> Tensor:
        return roi_align(x, rois, (2, 3), 0.5, 0, True)

    x = x.requires_grad_()
    assert torch.autograd.gradcheck(call, x)
    assert torch.autograd.gradgradcheck(call, x)
    (grad,) = torch.autograd.grad(call(x).sum(), x)
    assert grad.is_contiguous(memory_format=layout)


@compiled
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_number_of_threads_changes_no_bit(layout):
    x, rois = draw(1, 3, 70, (40, 50), 60, layout=layout)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(with_gradient(roi_align, x, rois, 7, 1.0, 2))
    torch.set_num_threads(before)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=0, rtol=0)


@compiled
def test_what_the_compiler_and_autograd_are_told():
    for layout in LAYOUTS:
        x, rois = draw(2, 2, 4, (6, 9), 3, layout=layout)
        opcheck(torch.ops.convbody.roi_align.default, (x.requires_grad_(), rois, 0.5, 2, 3, 2, False))
        grad = torch.ones(3, 4, 2, 3, requires_grad=True)
        options = (*x.shape, 2, False, layout == torch.channels_last)
        opcheck(torch.ops.convbody.roi_align_backward.default, (grad, rois, 0.5, *options))


@compiled
def test_it_compiles_without_a_break_for_any_size():
    call = torch.compile(
        lambda x, rois: roi_align(x, rois, 3), backend="aot_eager", dynamic=True, fullgraph=True
    )
    for images, size, boxes in ((2, (9, 8), 3), (3, (12, 5), 2)):
        x, rois = draw(5, images, 4, size, boxes)
        torch.testing.assert_close(with_gradient(call, x, rois), with_gradient(roi_align, x, rois, 3))


@compiled
@pytest.mark.parametrize("layout", LAYOUTS)
def test_boxes_without_sense_are_zeros_and_take_no_time(layout):
    x = torch.ones(1, 20, 8, 9).contiguous(memory_format=layout)
    nan, inf = torch.nan, torch.inf
    rois = torch.tensor([[0, nan, 1, 5, 5], [0, 1, 1, inf, inf], [0, 9e8, 9e8, 1e9, 1e9], [0, 5, 5, 1, 1]])
    for ratio in (0, 2):
        assert roi_align(x, rois, 3, 1.0, ratio, True)[:3].eq(0).all()
    assert roi_align(x, rois[3:], 3, 1.0, 0, True).eq(0).all()
    # Of a million pixels a side, all bins but one lie outside.
    huge = roi_align(x, torch.tensor([[0, -1e30, -1e30, 1e30, 1e30], [0, 0, 0, 3e6, 3e6]]), 3, 1.0, 0, True)
    assert huge.isfinite().all() and huge[1, :, 1:, 1:].eq(0).all()


@compiled
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": torch.tensor([[2.0, 0, 0, 1, 1]])}, "box 0 is of image 2 in a batch of 2"),
        ({"boxes": torch.tensor([[torch.nan, 0, 0, 1, 1]])}, "box 0 is of image nan"),
        ({"boxes": torch.zeros(3, 5).double()}, "boxes are of type Double but must be of type Float or of"),
        ({"input": torch.zeros(2, 3, 4)}, r"4 dimensions and at least one pixel, not the shape \(2, 3, 4\)"),
        ({"input": torch.zeros(2, 3, 0, 4)}, r"at least one pixel, not the shape \(2, 3, 0, 4\)"),
        ({"input": torch.zeros(2, 3, 4, 4).int()}, "Int but must be float64, float32, float16 or bfloat16"),
        ({"output_size": (0, 2)}, r"output size must be positive, not \(0, 2\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, message):
    arguments = {"input": torch.zeros(2, 3, 4, 4), "boxes": torch.zeros(1, 5), "output_size": 2, **changes}
    with pytest.raises(RuntimeError, match=message):
        roi_align(**arguments)


@pytest.fixture(params=["the extension", "torchvision"])
def serving(request, monkeypatch):
    if request.param == "torchvision":
        monkeypatch.setattr(regions, "_COMPILED", False)
    elif absent("cpu"):
        pytest.skip(f"the extension is absent: {absent('cpu')}")


def test_the_signature_is_torchvisions():
    ours, theirs = (inspect.signature(function).parameters for function in (roi_align, ops.roi_align))
    assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_boxes_may_come_in_a_list(serving, dtype):
    x, rois = draw(7, 3, 4, (9, 8), 6, dtype)
    rois[:, 0] = torch.tensor([0, 0, 2, 2, 2, 2])  # none in the second image
    boxes = [rois[rois[:, 0] == image, 1:] for image in range(3)]
    wanted = roi_align(x, rois, (2, 3))
    for same in (boxes, tuple(boxes)):
        torch.testing.assert_close(roi_align(x, boxes=same, output_size=[2, 3]), wanted, atol=0, rtol=0)
    assert roi_align(x, [], 2).shape == (0, 4, 2, 2)
    if dtype is not torch.bfloat16:
        torch.testing.assert_close(wanted, ops.roi_align(x, boxes, (2, 3)), atol=1e-5, rtol=1e-5)


def test_the_number_of_an_image_is_exact_in_every_type(serving):
    x = torch.arange(300.0).view(-1, 1, 1, 1).half()
    boxes = [torch.tensor([[0, 0, 1, 1]], dtype=torch.bfloat16)] * 300
    assert roi_align(x, boxes, 1).flatten().tolist() == list(range(300))


@pytest.mark.parametrize("inputs", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("boxes", [torch.float32, torch.bfloat16, torch.float16])
def test_under_autocast_it_computes_in_float32_as_torchvision(serving, inputs, boxes):
    x, rois = draw(8, 2, 5, (9, 8), 4)
    x, rois = x.to(inputs), rois.to(boxes)
    with torch.autocast("cpu", torch.bfloat16):
        out, grad = with_gradient(roi_align, x, rois, 3, 0.5)
        wanted, wanted_grad = with_gradient(ops.roi_align, x, rois, 3, 0.5)
    assert out.dtype == inputs
    torch.testing.assert_close((out, grad), (wanted, wanted_grad), atol=1e-5, rtol=torch.finfo(inputs).eps)
    torch.testing.assert_close(roi_align(x, rois, 3, 0.5), out, atol=0, rtol=0)  # and so without it


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": torch.zeros(3, 4)}, r"must have shape \(K, 5\), or \(L, 4\) in a list, not \(3, 4\)"),
        ({"boxes": torch.zeros(5)}, r"not \(5,\)"),
        (
            {"boxes": [torch.zeros(1, 4), torch.zeros(2, 5)]},
            r"of image 1 must be \(L, 4\), not of shape \(2, 5\)",
        ),
        ({"boxes": [[0, 0, 1, 1]]}, r"of image 0 must be \(L, 4\), not a list"),
        ({"output_size": (2, 3, 4)}, r"one number or two, not \(2, 3, 4\)"),
        ({"sampling_ratio": 257}, "sampling_ratio is 257; it must be at most 256, or 0 for as many"),
        ({"sampling_ratio": 2**70}, f"sampling_ratio is {2**70};"),
    ],
)
def test_what_no_operator_could_take_is_an_argument_error(serving, changes, message):
    arguments = {"input": torch.zeros(2, 3, 4, 4), "boxes": torch.zeros(1, 5), "output_size": 2, **changes}
    with pytest.raises(ArgumentError, match=message) as caught:
        roi_align(**arguments)
    assert "\n" not in str(caught.value)


@compiled
def test_the_operator_itself_bounds_its_samples():
    rois = torch.zeros(1, 5)
    with pytest.raises(RuntimeError, match="sampling_ratio is 257 but must be at most 256"):
        torch.ops.convbody.roi_align(torch.zeros(1, 3, 4, 4), rois, 1.0, 2, 2, 257, False)
    with pytest.raises(RuntimeError, match="sampling_ratio is 257 but must be at most 256"):
        torch.ops.convbody.roi_align_backward(
            torch.zeros(1, 3, 2, 2), rois, 1.0, 1, 3, 4, 4, 257, False, False
        )


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([1, 0, 0, 1, 1], "box 1 is of image 1 in a batch of 1"),
        ([-1, 0, 0, 1, 1], "box 1 is of image -1"),
        ([torch.nan, 0, 0, 1, 1], "box 1 is of image nan"),
        ([0, 0, 0, 1e5, 1e5], r"box 1, \[0.0, 0.0, 100000.0, 100000.0\], takes 1e\+10 samples"),
        ([0, 0, 0, torch.inf, 1], "takes inf samples"),
        ([0, torch.nan, 0, 1, 1], "takes nan samples"),
    ],
)
def test_torchvisions_operator_gets_no_box_that_is_its_ruin(monkeypatch, box, message):
    monkeypatch.setattr(regions, "_COMPILED", False)
    with pytest.raises(ArgumentError, match=message):
        roi_align(torch.ones(1, 2, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4], box]), 2)


def test_without_the_extension_torchvisions_operator_serves(monkeypatch):
    monkeypatch.setattr(regions, "_COMPILED", False)
    x, rois = draw(4, 2, 3, (9, 9), 4)
    options = (rois, 3, 0.5, 2, True)
    torch.testing.assert_close(roi_align(x, *options), ops.roi_align(x, *options), atol=0, rtol=0)
    half = roi_align(x.bfloat16(), rois, 3, 0.5, 2, True)
    wide = ops.roi_align(x.bfloat16().float(), *options)
    torch.testing.assert_close(half, wide.bfloat16(), atol=0, rtol=0)
