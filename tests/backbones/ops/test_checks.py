"""No operator works on tensors of several devices, neither with data nor while torch only traces."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from backbones.ops import batched_nms, deform_conv2d, library, nms, roi_align
from backbones.ops.activated_norm import activated_batch_norm
from backbones.ops.checks import ArgumentError, check_devices
from backbones.ops.fused_conv import fused_conv2d

NORM = (1e-5, "identity", 0.01)
IMAGE, MAPS = (1, 4, 5, 5), (1, 32, 4, 4)
DEFORMABLE = (IMAGE, (1, 18, 5, 5), (4, 4, 3, 3))
#: Of each operator the shapes of its tensors, and its options.
OPERATORS = {
    "deform_conv2d": ((*DEFORMABLE, (4,), (1, 9, 5, 5)), (1,) * 6),
    "deform_conv2d_backward": ((IMAGE, *DEFORMABLE, (1, 9, 5, 5)), (*(1,) * 6, False)),
    "fused_conv2d": ((MAPS, (32, 32, 3, 3), (32,), MAPS), (False,)),
    "roi_align": ((IMAGE, (2, 5)), (0.5, 2, 2, 2, False)),
    "roi_align_backward": (((2, 4, 2, 2), (2, 5)), (0.5, *IMAGE, 2, False, False)),
    "nms_keep": (((3, 4), (3,)), (0.5,)),
    "activated_norm_statistics": ((IMAGE,), ()),
    "activated_norm": ((IMAGE, *[(4,)] * 4), NORM),
    "activated_norm_sums": ((IMAGE, IMAGE, (4,), (4,)), NORM),
    "activated_norm_backward": ((IMAGE, IMAGE, *[(4,)] * 3, (2, 4)), NORM),
}
FACES = {
    "deform_conv2d": (lambda *t: deform_conv2d(*t[:4], padding=1, mask=t[4]), OPERATORS["deform_conv2d"][0]),
    "fused_conv2d": (fused_conv2d, OPERATORS["fused_conv2d"][0]),
    "roi_align": (lambda *t: roi_align(*t, 2), OPERATORS["roi_align"][0]),
    "roi_align of a list": (lambda *t: roi_align(t[0], list(t[1:]), 2), ((2, 3, 8, 8), (2, 4), (1, 4))),
    "nms": (lambda *t: nms(*t, 0.5), ((3, 4), (3,))),
    "batched_nms": (lambda *t: batched_nms(*t, 0.5), ((3, 4), (3,), (3,))),
    "activated_batch_norm": (lambda *t: activated_batch_norm(*t, *NORM), (IMAGE, (4,), (4,))),
}
compiled = pytest.mark.skipif(
    bool(library.absent("cpu")), reason=f"the extension is absent: {library.absent('cpu')}"
)


def tensors(shapes, odd, device):
    """Zeros on the CPU, but for that at ``odd``."""
    return [torch.zeros(shape, device=device if i == odd else "cpu") for i, shape in enumerate(shapes)]


def call(name, odd, device):
    shapes, options = OPERATORS[name]
    arguments = tensors(shapes, odd, device)
    if name == "nms_keep":
        arguments[1] = arguments[1].long()
    return getattr(torch.ops.convbody, name)(*arguments, *options)


def positions(table):
    return [
        (name, odd) for name, (shapes, *_) in table.items() for odd in range(len(shapes)) if len(shapes) > 1
    ]


def faces():
    return [(name, odd) for name, (_, shapes) in FACES.items() for odd in range(len(shapes))]


def test_every_operator_is_in_the_table():
    assert OPERATORS.keys() == set(library._DECLARED)


@compiled
@pytest.mark.parametrize("name", OPERATORS)
def test_on_one_device_every_operator_runs_and_is_traced(name):
    found = call(name, None, "cpu")
    for mode in (FakeTensorMode(), torch.device("meta")):
        with mode:
            shapes, options = OPERATORS[name]
            traced = [torch.zeros(shape, dtype=torch.int64 if shape == (3,) else None) for shape in shapes]
            fake = getattr(torch.ops.convbody, name)(*traced, *options)
        pairs = zip(found, fake, strict=True) if isinstance(found, tuple) else [(found, fake)]
        assert all(one.shape == two.shape and one.dtype == two.dtype for one, two in pairs)


@compiled
@pytest.mark.parametrize(("name", "odd"), positions(OPERATORS))
def test_operators_refuse_a_tensor_without_data_beside_others(name, odd):
    with pytest.raises(ArgumentError, match=r"on meta.*one device|on cpu.*on meta.*one device"):
        call(name, odd, "meta")


@compiled
@pytest.mark.parametrize(("name", "odd"), positions(OPERATORS))
def test_operators_refuse_two_devices_while_they_are_traced(name, odd):
    with FakeTensorMode(), pytest.raises(ArgumentError, match="must be on one device"):
        call(name, odd, "cuda")


@pytest.mark.parametrize(("name", "odd"), faces())
@pytest.mark.parametrize("mode", ["meta", "cuda"])
def test_the_public_functions_refuse_two_devices(name, odd, mode):
    function, shapes = FACES[name]
    traced = FakeTensorMode() if mode == "cuda" else torch.no_grad()
    with traced, pytest.raises(ArgumentError, match="on cpu") as caught:
        function(*tensors(shapes, odd, mode))
    assert mode in str(caught.value) and "\n" not in str(caught.value)


def test_the_message_names_both_tensors():
    with pytest.raises(ArgumentError) as caught:
        check_devices("op", first=None, x=torch.ones(2, 3), y=torch.ones(2), z=torch.ones(4, device="meta"))
    text = "op: z of shape (4,) is on meta, x of shape (2, 3) on cpu; they must be on one device"
    assert str(caught.value) == text
