"""The operators of the activated batch norm on every device against PyTorch in float64.

Where there is no GPU, its tiles are compiled for the CPU and run thread after thread.
"""

import itertools
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import Library, opcheck

from backbones.ops import activated_norm_fallback as fallback
from backbones.ops.activated_norm import ACTIVATIONS
from backbones.ops.activated_norm_registrations import SCHEMAS
from backbones.ops.library import absent

ROOT = Path(__file__).parents[3]
COMPILER = shutil.which("g++") or shutil.which("clang++")
EPS = 1e-5


def without(reason, name, *marks):
    return pytest.param(name, marks=[*marks, pytest.mark.skipif(bool(reason), reason=str(reason))])


TARGETS = [
    without(absent("cpu"), "cpu"),
    without(absent("cuda"), "cuda", pytest.mark.gpu),
    without(COMPILER is None and "no C++ compiler", "emulated", pytest.mark.slow),
]


@pytest.fixture(scope="module", params=TARGETS)
def target(request, tmp_path_factory):
    """Operators, and the device they are for."""
    if request.param != "emulated":
        yield SimpleNamespace(ops=torch.ops.convbody, device=request.param)
        return
    built = tmp_path_factory.mktemp("emulated") / "tiles.so"
    torch_folder = Path(torch.__file__).parent
    flags = ["-std=c++20", "-O1", "-fPIC", "-shared", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    paths = [f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}", "-ltorch_cpu"]
    source = ROOT / "tests" / "csrc" / "activated_norm_emulation.cpp"
    subprocess.run([COMPILER, *flags, str(source), *paths, "-o", str(built)], check=True)
    library = Library("convbody_emulated", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    torch.ops.load_library(str(built))
    yield SimpleNamespace(ops=torch.ops.convbody_emulated, device="cpu")


# Vectors that are cut off, tiles that are, one pixel, one channel, more channels than a tile has values.
SHAPES = [
    (3, 5, 7, 9),
    (2, 70, 3, 5),
    (1, 3, 1, 2),
    (2, 1, 4, 4),
    (8, 64, 1, 1),
    (1, 2, 130, 260),
    (5, 33, 40, 50),
    (2, 17000, 1, 2),
]
TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}


class Case:
    """Tensors of one norm, and what the operators must make of them."""

    def __init__(self, shape, dtype=torch.float32, activation="leaky_relu", layout=None, device="cpu"):
        generator = torch.Generator().manual_seed(0)

        def draw(*size):
            return torch.randn(size, generator=generator, dtype=torch.float64, device="cpu")

        def images():
            return draw(*shape).to(device, dtype, memory_format=layout or torch.contiguous_format)

        self.x, self.grad = images(), images()
        wide = fallback.wide(self.x)
        weight, self.bias = (draw(shape[1]).to(device, wide) for _ in range(2))
        self.weight = weight.sign() * (weight.abs() + 0.3)
        self.options = (EPS, activation, 0.1)
        self.mean, self.var = self.exactly(fallback.statistics, wide, self.x)
        affine = self.weight, self.bias
        self.y = self.exactly(fallback.forward, dtype, self.x, self.mean, self.var, *affine, *self.options)
        self.sums = self.exactly(fallback.sums, wide, self.grad, self.y, *affine, *self.options)
        self.means = self.sums / (self.x.numel() // shape[1])
        self.grad_x = self.exactly(
            fallback.backward, dtype, self.grad, self.y, self.var, *affine, self.means, *self.options
        )

    @staticmethod
    def exactly(function, dtype, *arguments):
        """In float64, but of half types in float32: how far elu can be undone is a matter of the type."""
        if arguments[0].dtype == torch.float32:
            arguments = [a.double() if isinstance(a, torch.Tensor) else a for a in arguments]
        found = function(*arguments)
        return found.to(dtype) if isinstance(found, torch.Tensor) else tuple(t.to(dtype) for t in found)

    def arguments(self, ops=torch.ops.convbody):
        """Of each operator."""
        affine = self.weight, self.bias
        return {
            ops.activated_norm_statistics.default: (self.x,),
            ops.activated_norm.default: (self.x, self.mean, self.var, *affine, *self.options),
            ops.activated_norm_sums.default: (self.grad, self.y, *affine, *self.options),
            ops.activated_norm_backward.default: (
                *(self.grad, self.y, self.var, *affine, self.means),
                *self.options,
            ),
        }

    def wanted(self):
        """The results, in the same order."""
        return [(self.mean, self.var), self.y, self.sums, self.grad_x]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_every_shape(target, layout, dtype):
    for shape, activation in itertools.product(SHAPES, ACTIVATIONS):
        case = Case(shape, dtype, activation, layout, target.device)
        for (op, arguments), wanted in zip(case.arguments(target.ops).items(), case.wanted(), strict=True):
            # Sums over n values of one size round to about its root.
            tolerance = TOLERANCES[dtype if wanted is case.y or wanted is case.grad_x else wanted[0].dtype]
            spread = (case.x.numel() / shape[1]) ** 0.5 if wanted is case.sums else 1
            torch.testing.assert_close(
                op(*arguments),
                wanted,
                rtol=tolerance,
                atol=tolerance * spread,
                msg=lambda text, at=(op, shape, activation): f"{at}: {text}",
            )


@settings(max_examples=12, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 3)] * 4),
    order=st.permutations(range(4)),
    step=st.sampled_from([1, 2]),
    dtype=st.sampled_from(list(TOLERANCES)),
)
def test_any_strides_give_the_values_and_the_layout_that_pytorch_would(shape, order, step, dtype):
    case = Case(shape, dtype)
    strided = torch.empty([shape[i] * step for i in order], dtype=dtype)
    x = strided.permute(*(order.index(i) for i in range(4)))[
        tuple(slice(None, s * step, step) for s in shape)
    ]
    x.copy_(case.x)
    case.x = case.grad = x
    case.y = x.clone()
    tolerance = {"rtol": TOLERANCES[dtype], "atol": TOLERANCES[dtype]}
    for op, arguments in case.arguments().items():
        opcheck(op, arguments, test_utils="test_faketensor")
        dense = [t.contiguous() if isinstance(t, torch.Tensor) else t for t in arguments]
        torch.testing.assert_close(op(*arguments), op(*dense), **tolerance)


@pytest.mark.parametrize("options", [{}, {"dtype": torch.bfloat16, "layout": torch.channels_last}])
def test_opcheck(options):
    for op, arguments in Case((2, 4, 3, 5), **options).arguments().items():
        opcheck(op, arguments)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("offset", "scale"), [(0, 1e15), (0, 1e-15), (1e4, 1.0), (-300, 1e-2)])
def test_statistics_of_values_far_from_one(target, layout, offset, scale):
    generator = torch.Generator().manual_seed(1)
    x = (torch.randn(4, 3, 41, 37, generator=generator, dtype=torch.float64) * scale + offset).float()
    wanted = fallback.statistics(x.double())
    mean, var = target.ops.activated_norm_statistics(x.to(target.device, memory_format=layout))
    torch.testing.assert_close(mean.cpu().double(), wanted[0], rtol=1e-6, atol=1e-6 * scale)
    torch.testing.assert_close(var.cpu().double(), wanted[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_what_is_not_a_number_shows(target, layout):
    x = torch.zeros(2, 3, 4, 4).contiguous(memory_format=layout)
    x[1, 0, 2, 2], x[0, 2, 0, 0] = torch.nan, torch.inf
    mean, var = target.ops.activated_norm_statistics(x.to(target.device))
    assert mean.isfinite().tolist() == var.isfinite().tolist() == [False, True, False]


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 4, 0, 3)])
def test_no_images(target, shape):
    ops, device = target.ops, target.device
    parameter = torch.ones(4, device=device)
    options = (EPS, "elu", 1.0)
    x = torch.zeros(shape, device=device)
    assert ops.activated_norm(x, *[parameter] * 4, *options).shape == shape
    sums = ops.activated_norm_sums(x, x, parameter, parameter, *options)
    torch.testing.assert_close(sums, torch.zeros(2, 4, device=device))
    assert ops.activated_norm_backward(x, x, *[parameter] * 3, sums, *options).shape == shape


@pytest.mark.skipif(bool(absent("cpu")), reason="the extension is not built")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_number_of_threads_changes_no_bit(layout):
    case = Case((4, 48, 40, 40), layout=layout)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append([op(*arguments) for op, arguments in case.arguments().items()])
    torch.set_num_threads(threads)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {1: torch.ones(3)},
            r"mean has shape \(3,\) but must have \(4,\) for an input of shape \(2, 4, 3, 5\)",
        ),
        ({3: torch.ones(4).double()}, "weight is of type Double but must be of type Float for an input of"),
        ({0: torch.ones(2, 4)}, r"4 dimensions, not the shape \(2, 4\)"),
        ({0: torch.ones(2, 4, 3, 5).int()}, "Int but must be float64, float32, float16 or bfloat16"),
        ({6: "relu"}, "leaky_relu, elu or identity, not relu"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(target, change, message):
    arguments = Case((2, 4, 3, 5)).arguments()[torch.ops.convbody.activated_norm.default]
    changed = [change.get(i, argument) for i, argument in enumerate(arguments)]
    with pytest.raises(RuntimeError, match=message):
        target.ops.activated_norm(
            *(a.to(target.device) if isinstance(a, torch.Tensor) else a for a in changed)
        )


def test_gradients_that_do_not_fit_are_refused(target):
    case = Case((2, 4, 3, 5), device=target.device)
    for op, (grad, *others) in list(case.arguments(target.ops).items())[2:]:
        for other in (grad[:1], grad.double()):
            with pytest.raises(RuntimeError, match=r"the gradient of shape .* must agree in shape, type"):
                op(other, *others)
    op, arguments = list(case.arguments(target.ops).items())[3]
    with pytest.raises(RuntimeError, match=r"means has shape \(4,\) but must have \(2, 4\)"):
        op(*(case.means[0] if argument is case.means else argument for argument in arguments))
