"""The activated norm against PyTorch in float64; RoIAlign and suppression, torchvision's on a GPU."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from exactness import BOUNDS, name_of, poison, relative_error, worst
from rows import Rows
from torch import Tensor
from torch.library import opcheck

from backbones.ops import activated_norm_fallback as by_torch
from backbones.ops import batched_nms, nms, roi_align
from backbones.ops.activated_norm import ACTIVATIONS, activated_batch_norm

EPS, SLOPE = 1e-5, 0.1
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
#: One pixel, one channel, sizes that no vector and no tile divides, more channels than a tile has values.
SHAPES = (
    (1, 3, 1, 9),
    (2, 1, 4, 4),
    (3, 5, 7, 9),
    (8, 64, 1, 1),
    (2, 70, 33, 35),
    (1, 2, 130, 260),
    (2, 17000, 1, 2),
)
FEW = SHAPES[:4]


class Norm:
    """Tensors of a norm of one shape, and what its four operators must make of them in float64."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, activation: str) -> None:
        def draw(*size: int) -> Tensor:
            return torch.randn(size, dtype=torch.float64)

        options: Any = (EPS, activation, SLOPE)
        parameters = torch.promote_types(dtype, torch.float32)
        self.options = options
        # Means away from zero: the relative error of a sum that cancels says nothing.
        self.x, self.grad = (draw(*shape).clamp(-2.5, 2.5).add(0.5).to(dtype) for _ in range(2))
        weight = draw(shape[1])
        self.weight = (weight.sign() * (0.3 + weight.abs().clamp(max=1.5))).to(parameters)
        self.bias = draw(shape[1]).clamp(-1, 1).to(parameters)
        x, affine = self.x.double(), (self.weight.double(), self.bias.double())
        mean, var = by_torch.statistics(x)
        y = by_torch.forward(x, mean, var, *affine, *self.options)
        self.mean, self.var, self.y = mean.to(parameters), var.to(parameters), y.to(dtype)
        # Backward from the output as it is rounded; where elu is rounded to -1 it counts as a little more.
        rounded = self.y.double().clamp(
            min=torch.finfo(dtype).eps - 1 if activation == "elu" else None, max=1e9
        )
        grad = self.grad.double()
        sums = by_torch.sums(grad, rounded, *affine, *self.options)
        self.means = (sums / (x.numel() // shape[1])).to(parameters)
        given = (grad, rounded, self.var.double(), *affine, self.means.double())
        self.exact = (mean, var, y, sums, by_torch.backward(*given, *self.options))

    def arguments(self, device: torch.device, layout: torch.memory_format) -> dict[Any, tuple[Any, ...]]:
        """Of each operator."""
        ops = torch.ops.convbody
        x, grad, y = (t.to(device, memory_format=layout) for t in (self.x, self.grad, self.y))
        mean, var, weight, bias, means = (
            t.to(device) for t in (self.mean, self.var, self.weight, self.bias, self.means)
        )
        return {
            ops.activated_norm_statistics.default: (x,),
            ops.activated_norm.default: (x, mean, var, weight, bias, *self.options),
            ops.activated_norm_sums.default: (grad, y, weight, bias, *self.options),
            ops.activated_norm_backward.default: (grad, y, var, weight, bias, means, *self.options),
        }


NAMES = ("mean", "var", "output", "sums", "grad input")


def check_values(rows: Rows, device: torch.device, dtype: torch.dtype, *, few: bool) -> None:
    """A row for each layout: the worst relative error of all shapes, activations and operators."""
    errors: dict[str, list[tuple[str, float]]] = {layout: [] for layout in LAYOUTS}
    for shape, activation in itertools.product(FEW if few else SHAPES, ACTIVATIONS):
        norm = Norm(shape, dtype, activation)
        for layout, found in errors.items():
            poison(device)
            results: list[Tensor] = []
            for op, arguments in norm.arguments(device, LAYOUTS[layout]).items():
                out = op(*arguments)
                results += [out] if isinstance(out, Tensor) else out
            found += [
                (f"{name} of {shape}, {activation}", relative_error(own, wanted))
                for name, own, wanted in zip(NAMES, results, norm.exact, strict=True)
            ]
    for layout, found in errors.items():
        what, error = worst(found)
        detail = f"largest of {len(found)}, {what}; at most {BOUNDS[dtype]:g}"
        name = f"activated norm {name_of(dtype)}, {layout}"
        rows.add(name, error <= BOUNDS[dtype], error, "relative error", detail)


def check_properties(rows: Rows, device: torch.device) -> None:
    """Repeatability, no images, autocast through a layer's function, opcheck."""
    norm = Norm((4, 70, 33, 35), torch.float32, "leaky_relu")
    name = "activated norm: runs give the same bits"
    with rows.guarded(name):
        calls = norm.arguments(device, torch.channels_last).items()
        runs = [[op(*arguments) for op, arguments in calls] for _ in range(3)]
        same = all(_equal(own, first) for run in runs[1:] for own, first in zip(run, runs[0], strict=True))
        rows.add(name, same)
    name = "activated norm: no images"
    with rows.guarded(name):
        x, one = torch.zeros(0, 4, 3, 3, device=device), torch.ones(4, device=device)
        sums = torch.ops.convbody.activated_norm_sums(x, x, one, one, *norm.options)
        y = torch.ops.convbody.activated_norm(x, one, one, one, one, *norm.options)
        rows.add(name, y.shape == x.shape and not sums.any())
    for dtype in (torch.float16, torch.bfloat16):
        name = f"activated norm: autocast to {name_of(dtype)}"
        with rows.guarded(name), torch.autocast(device.type, dtype):
            x, weight, bias = (
                t.to(device).requires_grad_() for t in (norm.x.to(dtype), norm.weight, norm.bias)
            )
            y, mean, var = activated_batch_norm(x, weight, bias, *norm.options)
            grads = torch.autograd.grad(y, (x, weight, bias), norm.grad.to(y))
            types = [name_of(t.dtype) for t in (y, mean, var, *grads)]
            right = types == [name_of(dtype), "float32", "float32", name_of(dtype), "float32", "float32"]
            rows.add(name, right and all(bool(t.isfinite().all()) for t in grads), detail=", ".join(types))
    name = "activated norm: opcheck"
    with rows.guarded(name):
        for op, arguments in (
            Norm((2, 4, 3, 5), torch.float32, "elu").arguments(device, torch.channels_last).items()
        ):
            opcheck(op, arguments)
        rows.add(name, True)


def check_regions(rows: Rows, device: torch.device) -> None:
    """RoIAlign and suppression on this device beside those of the CPU."""
    x = torch.randn(2, 16, 30, 41)
    corners = torch.rand(40, 2) * 100
    boxes = torch.cat([corners, corners + 5 + 60 * torch.rand(40, 2)], 1)
    rois = torch.cat([torch.arange(40)[:, None] % 2, boxes], 1)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        name = f"roi_align {name_of(dtype)}"
        with rows.guarded(name):
            leaf = x.to(dtype).to(device).requires_grad_()
            out = roi_align(leaf, rois.to(device, dtype), 7, 0.25, 2, True)
            wide = x.to(dtype).double().requires_grad_()
            wanted = roi_align(wide, rois.to(dtype).double(), 7, 0.25, 2, True)
            grad = torch.randn(out.shape).to(dtype)
            (own,) = torch.autograd.grad(out, leaf, grad.to(device))
            (exact,) = torch.autograd.grad(wanted, wide, grad.double())
            error = max(relative_error(out, wanted), relative_error(own, exact))
            rows.add(name, error <= BOUNDS[dtype], error, "relative error", f"at most {BOUNDS[dtype]:g}")
    scores, groups = torch.rand(40), torch.arange(40) % 3
    for name, call in (
        ("nms", lambda b, s, g: nms(b, s, 0.3)),
        ("batched_nms", lambda b, s, g: batched_nms(b, s, g, 0.3)),
    ):
        with rows.guarded(name):
            given = (boxes, scores, groups)
            own = call(*(t.to(device) for t in given)).cpu()
            rows.add(name, torch.equal(own, call(*given)), len(own), "boxes kept", "as on the CPU")


def _equal(a: Tensor | tuple[Tensor, ...], b: Tensor | tuple[Tensor, ...]) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)  # type: ignore[arg-type]
    return all(map(torch.equal, a, b))
