"""Times of the operators beside torchvision's and PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
import torchvision
from clock import Call, ceilings, peak_mebibytes, ratio, shown, times
from exactness import BOUNDS, name_of, relative_error
from rows import Rows
from torch import Tensor

from backbones.ops import deform_conv2d
from backbones.ops.activated_norm import activated_batch_norm

#: Channels, height and width of the 3x3 convolutions of R-50's last three stages at 800 x 1344.
SHAPES = ((128, 100, 168), (256, 50, 84), (512, 25, 42))
NORM_SHAPES = ((2, 256, 200, 336), (2, 2048, 25, 42))
SETS = 4  # of inputs, in turn, so that the cache does not hold them all
OURS, THEIRS = "convbody", "torchvision"
Function = Callable[..., Tensor]


def check_deform_conv(
    rows: Rows, device: torch.device, shape: tuple[int, int, int], dtype: torch.dtype, *, rehearse: bool
) -> None:
    """Forward, and forward and backward, modulated, batch 2, through autograd, as a layer calls it."""
    channels, height, width = shape if not rehearse else (shape[0] // 8, 9, 11)
    what = f"deform_conv2d {channels} x {height} x {width}, {name_of(dtype)}"
    ours, theirs, note = _ours, *_torchvision(device, dtype)
    sides = {OURS: torch.channels_last, THEIRS: torch.contiguous_format}
    sets = {
        side: [_leaves(channels, height, width, dtype, device, layout, number) for number in range(SETS)]
        for side, layout in sides.items()
    }
    functions = {OURS: ours, THEIRS: theirs}
    outs = {side: functions[side](*sets[side][0]) for side in sides}
    error = relative_error(outs[OURS], outs[THEIRS])
    # Each rounds its own way, so they may lie twice as far apart as one from the truth.
    rows.add(f"{what}: both give the same", error <= 2 * BOUNDS[dtype], error, "relative error", note)
    grads = {side: [torch.randn_like(outs[side]) for _ in range(SETS)] for side in sides}
    flops = 2.0 * 2 * height * width * channels * channels * 9
    size = dtype.itemsize
    read = size * (2 * height * width * (channels + 27) + 9 * channels * channels)
    written = size * 2 * height * width * channels
    for way, factor, moved in (
        ("forward", 1, read + written),
        ("forward+backward", 3, 3 * read + 2 * written),
    ):

        def call(side: str, number: int, way: str = way) -> object:
            leaves = sets[side][number]
            if way == "forward":
                with torch.no_grad():
                    return functions[side](*leaves)
            return torch.autograd.grad(functions[side](*leaves), leaves, grads[side][number])

        calls = {side: partial(call, side) for side in sides}
        found = times(device, calls, rounds=2 if rehearse else 15, inner=SETS)
        shares = ceilings(device, rehearse).shares(
            shown(found[OURS])[0], flops=factor * flops, moved=moved, dtype=dtype
        )
        _report(rows, f"{what}, {way}", found, shares, note)
        memory = [peak_mebibytes(device, partial(call, side, 0)) for side in sides]
        rows.add(f"{what}, {way}: peak memory", None, memory, "MiB", " and ".join(sides))


def _leaves(
    channels: int,
    height: int,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
    layout: torch.memory_format,
    seed: int,
) -> list[Tensor]:
    """Input, weight, offset and mask; the same for every layout."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator)

    tensors = [
        draw(2, channels, height, width),
        draw(channels, channels, 3, 3) / (9 * channels) ** 0.5,
        draw(2, 18, height, width),
        draw(2, 9, height, width).sigmoid(),
    ]
    return [t.to(device, dtype, memory_format=layout).requires_grad_() for t in tensors]


def _ours(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
    return deform_conv2d(x, offset, weight, padding=1, mask=mask)


def _torchvision(device: torch.device, dtype: torch.dtype) -> tuple[Function, str]:
    """Its operator; in float32, as its autocast does, where it refuses the type."""

    def plain(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = torchvision.ops.deform_conv2d(x, offset, weight, padding=1, mask=mask)
        return out

    def wide(*tensors: Tensor) -> Tensor:
        return plain(*(t.float() for t in tensors)).to(dtype)

    try:
        plain(*_leaves(4, 5, 5, dtype, device, torch.contiguous_format, 0))
    except RuntimeError as refusal:
        if "CUDA error" in str(refusal):
            raise
        return wide, f"torchvision in float32, for it refuses {name_of(dtype)}"
    return plain, ""


def check_norm(rows: Rows, device: torch.device, dtype: torch.dtype, *, rehearse: bool) -> None:
    """The activated norm in training beside batch norm and leaky_relu of PyTorch, forward and backward."""
    for shape in NORM_SHAPES if not rehearse else ((2, 16, 9, 11),):
        what = f"activated norm {' x '.join(map(str, shape))}, {name_of(dtype)}, forward+backward"
        found = times(device, _norms(shape, device, dtype), rounds=2 if rehearse else 15, inner=2)
        # Statistics read once; forward reads and writes; backward reads two twice and writes.
        moved = 8.0 * math.prod(shape) * dtype.itemsize
        shares = ceilings(device, rehearse).shares(shown(found[OURS])[0], flops=0, moved=moved, dtype=dtype)
        _report(rows, what, found, shares, "")


def _norms(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> dict[str, Call]:
    """Forward and backward pass of both, on channels_last images."""

    def images() -> Tensor:
        drawn = torch.randn(shape, dtype=dtype, device=device)
        return drawn.contiguous(memory_format=torch.channels_last)

    sets = [(images(), images()) for _ in range(2)]
    weight, bias = (torch.rand(shape[1], device=device).requires_grad_() for _ in range(2))
    mean, var = torch.zeros(shape[1], device=device), torch.ones(shape[1], device=device)

    def ours(x: Tensor) -> Tensor:
        return activated_batch_norm(x, weight, bias, 1e-5, "leaky_relu", 0.01)[0]

    def theirs(x: Tensor) -> Tensor:
        return F.leaky_relu(F.batch_norm(x, mean, var, weight, bias, True), 0.01, inplace=True)

    def step(function: Function, number: int) -> object:
        x, grad = sets[number]
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(function(leaf), (leaf, weight, bias), grad)

    return {OURS: partial(step, ours), "batch norm and leaky_relu": partial(step, theirs)}


def _report(rows: Rows, what: str, found: dict[str, list[float]], shares: str, note: str) -> None:
    """A row for each time, with the quartiles, and one for how many times longer the other took."""
    other = next(name for name in found if name != OURS)
    rows.add(f"{what}: {OURS}", None, shown(found[OURS]), "ms", f"median and quartiles; {shares}")
    rows.add(f"{what}: {other}", None, shown(found[other]), "ms", note)
    rows.add(f"{what}: {other} / {OURS}", None, ratio(found[other], found[OURS]), "times", note)
