"""The tiles of the CUDA kernels, compiled for the CPU, run thread after thread: arithmetic without a GPU."""

import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones.ops.deform_conv_reference import deform_conv2d_reference

HERE = Path(__file__).parent
INCLUDE = Path(torch.__file__).parent / "include"
COMPILER = shutil.which("g++") or shutil.which("clang++")
TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        COMPILER is None, reason="the tiles are compiled with g++ or clang++, and there is neither"
    ),
]


@dataclass(frozen=True)
class Problem:
    """A convolution, and how the work is cut."""

    batch: int = 2
    channels: int = 8
    size: tuple[int, int] = (6, 5)
    out_channels: int = 8
    kernel: tuple[int, int] = (2, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    offset_groups: int = 1
    mask: bool = True
    bias: bool = True
    reach: float = 2.0  # of the offsets, in pixels
    split: int = 256  # positions in a part of the sum for the weight
    slice: int = 1000  # positions in a part of the deterministic backward pass
    shift: int = 0  # of tensors in memory, in values, from 16-byte alignment

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        height, width = (
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip(
                self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        return height, width


PLAIN = Problem()
PROBLEMS = {
    "plain": PLAIN,
    "no mask, no bias": replace(PLAIN, mask=False, bias=False),
    "one channel": replace(PLAIN, channels=1, out_channels=1),
    "odd channels": replace(PLAIN, channels=7, out_channels=5),
    "misaligned": replace(PLAIN, channels=16, out_channels=16, shift=1),
    "groups of both kinds": replace(PLAIN, channels=12, out_channels=10, groups=2, offset_groups=3),
    "depthwise": replace(PLAIN, channels=4, out_channels=8, kernel=(1, 3), groups=4, offset_groups=2),
    "wide groups": replace(PLAIN, channels=32, out_channels=32, groups=2, offset_groups=4),
    "an odd window": replace(PLAIN, kernel=(3, 2), stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
    "several tiles each way": replace(
        PLAIN, size=(12, 13), channels=136, out_channels=136, kernel=(1, 2), padding=(0, 0), slice=256
    ),
    "several tiles of groups": replace(
        PLAIN, batch=1, size=(3, 43), channels=264, out_channels=260, kernel=(1, 1), groups=2, padding=(0, 0)
    ),
    "far outside": replace(PLAIN, reach=30.0),
}


def shapes(p):
    """Of input, offset, mask, bias, weight and grad."""
    taps = p.kernel[0] * p.kernel[1]
    return [
        (p.batch, p.channels, *p.size),
        (p.batch, p.offset_groups * taps * 2, *p.out_size),
        (p.batch, p.offset_groups * taps, *p.out_size),
        (p.out_channels,),
        (p.out_channels, p.channels // p.groups, *p.kernel),
        (p.batch, p.out_channels, *p.out_size),
    ]


def tensors(p, dtype):
    """Input, offset, mask, bias, weight and grad, on offsets that include whole pixels and NaN."""
    generator = torch.Generator().manual_seed(0)
    input, offset, mask, bias, weight, grad = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes(p)
    )
    offset = (offset * p.reach).clamp(-40, 40)
    offset.view(-1)[::7] = offset.view(-1)[::7].round()
    offset.view(-1)[5], offset.view(-1)[11] = torch.nan, torch.inf
    return input, offset, mask if p.mask else None, bias if p.bias else None, weight, grad


def expected(p, dtype):
    """Output and gradients of input, offset, mask and weight; half types from a computation in float32."""
    wide = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
    input, offset, mask, bias, weight, grad = (
        None if t is None else t.to(wide).requires_grad_() for t in tensors(p, dtype)
    )
    options = (*p.stride, *p.padding, *p.dilation)
    out = deform_conv2d_reference(input, offset, weight, bias, mask, options)
    leaves = [input, offset, *([] if mask is None else [mask]), weight]
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def emulated(program, p, dtype, backwards):
    """The same from the tiles, with the gradients of input, offset and mask from both ways to get them."""
    input, offset, mask, bias, weight, grad = tensors(p, dtype)
    grouped = weight.reshape(p.groups, p.out_channels // p.groups, p.channels // p.groups, -1)
    layouts = [
        grad.permute(0, 2, 3, 1),
        input.permute(0, 2, 3, 1),
        offset,
        torch.empty(0, dtype=dtype) if mask is None else mask,
        torch.empty(0, dtype=dtype) if bias is None else bias,
        weight.permute(0, 2, 3, 1),
        grouped.permute(0, 3, 2, 1),
    ]
    numbers = [TYPES.index(dtype), int(backwards), p.batch, p.channels, *p.size, p.out_channels, *p.out_size]
    numbers += [*p.kernel, *p.stride, *p.padding, *p.dilation, p.groups, p.offset_groups]
    numbers += [p.split, p.slice, p.shift]
    problem = [np.array(numbers, np.int64).tobytes()]
    for tensor in layouts:
        problem += [np.int64(tensor.numel()).tobytes(), raw(tensor)]
    done = subprocess.run([program], input=b"".join(problem), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]

    answer, position = done.stdout, 0

    def take(shape, of=dtype, channels_last=False):
        nonlocal position
        stored = (shape[0], *shape[2:], shape[1]) if channels_last else shape
        count = int(np.prod(shape)) * of.itemsize
        values = torch.frombuffer(
            bytearray(answer[position : position + count] or b"\0" * of.itemsize), dtype=of
        )
        position += count
        values = values[: int(np.prod(shape))].view(stored)
        return values.permute(0, 3, 1, 2) if channels_last else values

    of_input, of_offset, of_mask, _, of_weight, of_grad = shapes(p)
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    results = [take(of_grad, channels_last=True)]
    ways = []
    for _ in ("atomics", "fixed order"):
        way = [take(of_input, sums, channels_last=True), take(of_offset)]
        ways.append(way + ([take(of_mask)] if p.mask else []))
    grad_weight = take(of_weight)
    assert position == len(answer)
    return [[*results, *way, grad_weight] for way in ways]


def raw(tensor):
    """The bytes of a tensor."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The tiles as a program, with the sanitizers."""
    path = tmp_path_factory.mktemp("tiles") / "tile_emulation"
    subprocess.run(
        [COMPILER, "-std=c++17", "-O1", "-fno-strict-aliasing", "-fsanitize=address,undefined"]
        + ["-fno-sanitize-recover=all", f"-I{INCLUDE}", str(HERE / "tile_emulation.cpp"), "-o", str(path)],
        check=True,
    )
    return path


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_tiles_compute_what_the_reference_does(program, name, dtype):
    problem = PROBLEMS[name]
    wanted = expected(problem, dtype)
    tolerance = TOLERANCES[dtype]
    for results in emulated(program, problem, dtype, backwards=False):
        for own, other in zip(results, wanted, strict=True):
            scale = other.abs().max().item() if other.numel() else 0.0
            torch.testing.assert_close(
                own.to(other.dtype), other, rtol=tolerance, atol=tolerance * max(1.0, scale)
            )


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_an_image_without_pixels_is_never_read(program, dtype):
    problem = replace(PLAIN, size=(0, 3), padding=(2, 2), mask=False)
    bias = tensors(problem, dtype)[3]
    for out, *gradients in emulated(program, problem, dtype, backwards=False):
        torch.testing.assert_close(out, bias.view(-1, 1, 1).expand_as(out))
        assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize(
    "name, dtype",
    [("several tiles each way", torch.float32), ("groups of both kinds", torch.bfloat16)],
    ids=str,
)
def test_the_order_of_threads_within_a_phase_changes_nothing(program, name, dtype):
    forwards, backwards = (emulated(program, PROBLEMS[name], dtype, order) for order in (False, True))
    fixed = [*forwards[0][:1], *forwards[0][2:], *forwards[1]]  # all but what is summed by atomics
    for own, other in zip(fixed, [*backwards[0][:1], *backwards[0][2:], *backwards[1]], strict=True):
        assert torch.equal(own, other)
