"""Deformable convolution against the definition in float64: every type, layout and way to add up."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from exactness import BOUNDS, TYPES, name_of, poison, relative_error, worst
from rows import Rows
from torch import Tensor
from torch.library import opcheck

from backbones.ops import deform_conv2d
from backbones.ops.deform_conv_reference import deform_conv2d_reference

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
NAMES = ("output", "grad input", "grad offset", "grad weight", "grad bias", "grad mask")


@dataclass(frozen=True)
class Problem:
    """A convolution; ``mask`` and ``bias`` say whether it has one."""

    batch: int = 2
    channels: int = 8
    size: tuple[int, int] = (13, 17)
    out_channels: int = 8
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    offset_groups: int = 1
    mask: bool = True
    bias: bool = True

    @property
    def options(self) -> tuple[int, ...]:
        return (*self.stride, *self.padding, *self.dilation)

    def tensors(self, dtype: torch.dtype) -> tuple[list[Tensor | None], Tensor]:
        """Input, offset, weight, bias, mask, and the gradient of the output, on the CPU.

        Offsets reach over the borders. No sample lies within 0.04 of a pixel's row or column, where
        gradients jump.
        """
        rows, columns = (
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(
                self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        taps = self.offset_groups * self.kernel[0] * self.kernel[1]

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=torch.float64).to(dtype)

        whole = torch.randint(-3, 3, (self.batch, 2 * taps, rows, columns))
        offset = (whole + 0.08 + 0.84 * torch.rand(whole.shape, dtype=torch.float64)).to(dtype)
        fan = (self.channels // self.groups * self.kernel[0] * self.kernel[1]) ** 0.5
        return [
            draw(self.batch, self.channels, *self.size),
            offset,
            draw(self.out_channels, self.channels // self.groups, *self.kernel) / fan,
            draw(self.out_channels) if self.bias else None,
            draw(self.batch, taps, rows, columns).sigmoid() if self.mask else None,
        ], draw(self.batch, self.out_channels, rows, columns)


PROBLEMS = {
    "v2": Problem(channels=64, out_channels=64, size=(25, 42)),
    "v1": Problem(channels=64, out_channels=32, mask=False, bias=False),
    "odd channels": Problem(channels=7, out_channels=5),
    "groups of both kinds": Problem(channels=24, out_channels=12, groups=3, offset_groups=4),
    "depthwise": Problem(
        channels=16, out_channels=32, kernel=(1, 3), padding=(0, 1), groups=16, offset_groups=2
    ),
    "stride, padding, dilation": Problem(
        size=(19, 16), kernel=(3, 2), stride=(2, 1), padding=(0, 2), dilation=(1, 2)
    ),
    "many tiles of groups": Problem(
        batch=1, channels=264, out_channels=260, size=(23, 29), groups=2, offset_groups=3
    ),
    "one pixel": Problem(batch=1, channels=1, out_channels=1, size=(1, 1), kernel=(1, 1), padding=(0, 0)),
    "a stage of R-50": Problem(channels=256, out_channels=256, size=(25, 42)),
}
FEW = ("v1", "groups of both kinds", "one pixel")


def on_device(
    tensors: list[Tensor | None], device: torch.device, layout: torch.memory_format
) -> list[Tensor | None]:
    """Leaves on the device; those with four dimensions in this layout."""
    return [
        None
        if t is None
        else t.detach()
        .to(device, memory_format=layout if t.dim() == 4 else torch.contiguous_format)
        .requires_grad_()
        for t in tensors
    ]


def results(problem: Problem, tensors: list[Tensor | None], grad: Tensor) -> list[Tensor]:
    """Output and gradients by the operator."""
    x, offset, weight, bias, mask = tensors
    assert x is not None and offset is not None and weight is not None
    out = deform_conv2d(x, offset, weight, bias, problem.stride, problem.padding, problem.dilation, mask)
    leaves = [t for t in tensors if t is not None]
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(out))]


def exact(problem: Problem, tensors: list[Tensor | None], grad: Tensor) -> list[Tensor]:
    """The same by the definition, in float64, on the CPU."""
    wide = [None if t is None else t.detach().cpu().double().requires_grad_() for t in tensors]
    x, offset, weight, bias, mask = wide
    assert x is not None and offset is not None and weight is not None
    out = deform_conv2d_reference(x, offset, weight, bias, mask, problem.options)
    return [out.detach(), *torch.autograd.grad(out, [t for t in wide if t is not None], grad.cpu().double())]


def names(problem: Problem) -> list[str]:
    """What ``results`` are."""
    given = (True, True, True, True, problem.bias, problem.mask)
    return [name for name, is_there in zip(NAMES, given, strict=True) if is_there]


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Deterministic algorithms, which also fill new memory with NaN."""
    torch.use_deterministic_algorithms(on)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def check_values(rows: Rows, device: torch.device, dtype: torch.dtype, *, few: bool) -> None:
    """A row for each layout and way to add up: the worst relative error of all problems and results."""
    errors: dict[tuple[str, bool], list[tuple[str, float]]] = {}
    for name, problem in PROBLEMS.items():
        if few and name not in FEW:
            continue
        tensors, grad = problem.tensors(dtype)
        wanted = exact(problem, tensors, grad)
        for layout, repeatable in itertools.product(LAYOUTS, (False, True)):
            moved = on_device(tensors, device, LAYOUTS[layout])
            poison(device)
            with deterministic(repeatable):
                own = results(problem, moved, grad.to(device))
            found = errors.setdefault((layout, repeatable), [])
            found += [
                (f"{what} of {name}", relative_error(out, right))
                for what, out, right in zip(names(problem), own, wanted, strict=True)
            ]
    for (layout, repeatable), found in errors.items():
        what, error = worst(found)
        way = "deterministic" if repeatable else "atomics"
        rows.add(
            f"deform_conv2d {name_of(dtype)}, {layout}, {way}",
            error <= BOUNDS[dtype],
            error,
            "relative error",
            f"largest of {len(found)}, {what}; at most {BOUNDS[dtype]:g}",
        )


def check_properties(rows: Rows, device: torch.device) -> None:
    """Repeatability, other strides, other streams, empty batches, autocast, opcheck."""
    problem = PROBLEMS["groups of both kinds"]
    for dtype in TYPES:
        tensors, grad = problem.tensors(dtype)
        with rows.guarded(f"deform_conv2d {name_of(dtype)}: deterministic runs give the same bits"):
            _check_repeatable(rows, problem, on_device(tensors, device, torch.channels_last), grad.to(device))
        with rows.guarded(f"deform_conv2d {name_of(dtype)}: strided tensors"):
            _check_strided(rows, problem, tensors, grad, device)
        with rows.guarded(f"deform_conv2d {name_of(dtype)}: an empty batch"):
            _check_empty(rows, device, dtype)
    for dtype in (torch.float16, torch.bfloat16):
        with rows.guarded(f"deform_conv2d: autocast to {name_of(dtype)}"):
            _check_autocast(rows, problem, device, dtype)
    name = "deform_conv2d: opcheck"
    with rows.guarded(name):
        tensors, grad = problem.tensors(torch.float32)
        x, offset, weight, bias, mask = on_device(tensors, device, torch.contiguous_format)
        operators = torch.ops.convbody
        opcheck(operators.deform_conv2d.default, (x, offset, weight, bias, mask, *problem.options))
        backward = (grad.to(device), x, offset, weight, mask, *problem.options, True)
        opcheck(operators.deform_conv2d_backward.default, backward, test_utils="test_faketensor")
        rows.add(name, True)


def _check_repeatable(rows: Rows, problem: Problem, tensors: list[Tensor | None], grad: Tensor) -> None:
    with deterministic(True):
        runs = [results(problem, tensors, grad) for _ in range(3)]
    same = all(torch.equal(own, first) for run in runs[1:] for own, first in zip(run, runs[0], strict=True))
    rows.add(f"deform_conv2d {name_of(grad.dtype)}: deterministic runs give the same bits", same)


def _check_strided(
    rows: Rows, problem: Problem, tensors: list[Tensor | None], grad: Tensor, device: torch.device
) -> None:
    """Every other value in memory; and a start that is not aligned to 16 bytes."""
    moved = on_device(tensors, device, torch.contiguous_format)
    strided = [None if t is None else _strided(t.detach()).requires_grad_() for t in moved]
    with deterministic(True):  # atomics would add up in another order each time
        own, wanted = (results(problem, each, grad.to(device)) for each in (strided, moved))
    error = max(relative_error(a, b) for a, b in zip(own, wanted, strict=True))
    bound = BOUNDS[grad.dtype]
    name = f"deform_conv2d {name_of(grad.dtype)}: strided tensors"
    rows.add(name, error <= bound, error, "relative error", f"to contiguous ones; at most {bound:g}")


def _strided(tensor: Tensor) -> Tensor:
    memory = torch.full((2 * tensor.numel() + 1,), torch.nan, dtype=tensor.dtype, device=tensor.device)
    view = memory[1::2].view(tensor.shape)
    return view.copy_(tensor)


def _check_empty(rows: Rows, device: torch.device, dtype: torch.dtype) -> None:
    tensors, grad = Problem(batch=0, groups=2).tensors(dtype)
    out, grad_x, grad_offset, grad_weight, grad_bias, grad_mask = results(
        Problem(batch=0, groups=2), on_device(tensors, device, torch.channels_last), grad.to(device)
    )
    empty = out.numel() == grad_x.numel() == grad_offset.numel() == grad_mask.numel() == 0
    rows.add(
        f"deform_conv2d {name_of(dtype)}: an empty batch",
        empty and not grad_weight.any() and not grad_bias.any(),
    )


def _check_autocast(rows: Rows, problem: Problem, device: torch.device, dtype: torch.dtype) -> None:
    tensors, grad = problem.tensors(dtype)
    leaves = on_device([None if t is None else t.float() for t in tensors], device, torch.channels_last)
    with torch.autocast(device.type, dtype):
        own = results(problem, leaves, grad.to(device))
    error = max(relative_error(a, b) for a, b in zip(own, exact(problem, tensors, grad), strict=True))
    right = (
        error <= BOUNDS[dtype] and own[0].dtype == dtype and all(t.dtype == torch.float32 for t in own[1:])
    )
    detail = f"output {name_of(own[0].dtype)}, gradients {name_of(own[1].dtype)}; at most {BOUNDS[dtype]:g}"
    rows.add(f"deform_conv2d: autocast to {name_of(dtype)}", right, error, "relative error", detail)
