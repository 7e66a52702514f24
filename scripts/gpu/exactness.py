"""How far results are from exact ones, and memory that shows what was not written."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Largest ||out - exact|| / ||exact|| of an operator, by its type. float32 sums thousands of terms and places
#: samples to 2e-6 of a pixel. Half types round the factors of products, and the result, to 11 and 8 bits.
BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1.5e-3, torch.bfloat16: 1e-2}
TYPES = tuple(BOUNDS)


def name_of(dtype: torch.dtype) -> str:
    """float32, ..."""
    return str(dtype).removeprefix("torch.")


def relative_error(out: Tensor, exact: Tensor) -> float:
    """||out - exact|| / ||exact|| in float64; infinite where anything is not finite or the shapes differ.

    0 where both have no elements; the norm of ``out`` where the exact one is 0.
    """
    if out.shape != exact.shape:
        return float("inf")
    own, wanted = out.detach().cpu().double(), exact.detach().cpu().double()
    if not (own.isfinite().all() and wanted.isfinite().all()):
        return float("inf")
    scale = float(wanted.norm())
    return float((own - wanted).norm()) / (scale or 1.0)


def worst(named: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """The name with the largest error."""
    return max(named, key=lambda pair: pair[1])


def poison(device: torch.device) -> None:
    """Fills free memory that the next tensors get with NaN, as far as an allocator gives memory again."""
    small = [torch.full((size,), torch.nan, device=device) for size in (64, 1 << 10, 1 << 14, 1 << 17) * 16]
    large = [torch.full((size,), torch.nan, device=device) for size in (1 << 19, 1 << 21, 1 << 23) * 2]
    del small, large


def exact_products() -> None:
    """No TF32, in torch's products and convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
