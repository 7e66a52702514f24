"""Deformable convolution on the CPU: how the work is cut changes no result, and how much memory it takes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from backbones.ops import status
from backbones.ops.deform_conv_reference import deform_conv2d_reference

pytestmark = pytest.mark.skipif(
    status()["cpu"] != "the extension", reason=f"deform_conv2d on the CPU: {status()['cpu']}"
)


@dataclass(frozen=True)
class Problem:
    """A 3x3 convolution, and in which memory format its input comes."""

    channels: int
    out_channels: int
    size: tuple[int, int]
    groups: int = 1
    offset_groups: int = 1
    channels_last: bool = True
    batch: int = 2

    def tensors(self, dtype: torch.dtype) -> list[torch.Tensor]:
        """Input, offset, weight, mask and the output's gradient."""
        generator = torch.Generator().manual_seed(0)
        shapes = [
            (self.batch, self.channels, *self.size),
            (self.batch, 18 * self.offset_groups, *self.size),
            (self.out_channels, self.channels // self.groups, 3, 3),
            (self.batch, 9 * self.offset_groups, *self.size),
            (self.batch, self.out_channels, *self.size),
        ]
        input, *rest = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return [input.contiguous(memory_format=layout), *rest]


# Each is cut otherwise: in chunks of positions, in blocks of weights, in copies of an image's channels.
PROBLEMS = {
    "many positions": Problem(24, 40, (33, 35)),
    "many weights": Problem(300, 520, (5, 7)),
    "an image that is copied": Problem(48, 9, (33, 35), channels_last=False),
    "an image that is copied in slabs": Problem(70, 3, (180, 181), channels_last=False, batch=1),
    "groups of both kinds": Problem(36, 24, (19, 21), groups=3, offset_groups=4),
}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * name.endswith("slabs")) for name in PROBLEMS]


def results(problem: Problem, dtype: torch.dtype) -> list[torch.Tensor]:
    input, offset, weight, mask, grad = problem.tensors(dtype)
    options = (1, 1, 1, 1, 1, 1)
    ops = torch.ops.convbody
    out = ops.deform_conv2d(input, offset, weight, None, mask, *options)
    return [out, *ops.deform_conv2d_backward(grad, input, offset, weight, mask, *options, False)]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_number_of_threads_changes_no_bit(threads, name, dtype):
    by_threads = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        by_threads.append(results(PROBLEMS[name], dtype))
    for others in by_threads[1:]:
        torch.testing.assert_close(others, by_threads[0], atol=0, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_however_the_work_is_cut_it_is_the_reference(name):
    problem = PROBLEMS[name]
    input, offset, weight, mask, grad = problem.tensors(torch.float64)
    leaves = [t.requires_grad_() for t in (input, offset, weight, mask)]
    out = deform_conv2d_reference(input, offset, weight, None, mask, (1, 1, 1, 1, 1, 1))
    wanted = [out.detach(), *torch.autograd.grad(out, leaves, grad)]
    torch.testing.assert_close(results(problem, torch.float64), wanted, atol=1e-9, rtol=1e-9)


PEAKS = """
import ctypes, itertools, sys, torch
from backbones.ops import deform_conv2d  # loads the extension

ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: what is freed leaves the process
torch.set_num_threads(int(sys.argv[1]))
options = (1, 1, 1, 1, 1, 1)

def kibibytes(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

def peak(backward, layout, channels, out_channels, size, dtype):
    shapes = [(channels, size), (18, size), (9, size), (out_channels, size)]
    tensors = [torch.ones(1, count, side, side, dtype=dtype) for count, side in shapes]
    input, offset, mask, grad = tensors
    input = input.contiguous(memory_format=layout)
    weight = torch.ones(out_channels, channels, 3, 3, dtype=dtype)
    before = kibibytes("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")  # VmHWM begins again
    if backward:
        out = torch.ops.convbody.deform_conv2d_backward(grad, input, offset, weight, mask, *options, False)
    else:
        out = [torch.ops.convbody.deform_conv2d(input, offset, weight, None, mask, *options)]
    return kibibytes("VmHWM") - before - sum(t.numel() * t.itemsize for t in out) // 1024

# Columns of the first would take 92 MB, copies of the second's weights 85 MB each.
largest = [
    (16, 8, 400, torch.float32),
    (1536, 1536, 8, torch.float32),
    (128, 16, 160, torch.bfloat16),
    (24, 8, 200, torch.float64),
]
for backward, layout in itertools.product((False, True), (torch.contiguous_format, torch.channels_last)):
    peak(backward, layout, 8, 8, 8, torch.float32)
    for case in largest:
        print(peak(backward, layout, *case))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux tells the peak of memory")
@pytest.mark.parametrize("threads", [1, 2])
def test_memory_is_bounded_whatever_the_size(threads):
    """32 MiB a thread beside what comes in and goes out."""
    command = [sys.executable, "-c", PEAKS, str(threads)]
    # Threads that wait let others run: tests share the cores.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    peaks = [int(line) / 1024 for line in done.stdout.split()]
    assert len(peaks) == 16
    assert 1 < max(peaks) < threads * 32, peaks
