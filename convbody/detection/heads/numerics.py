"""Precision of what heads compute with coordinates and losses."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """``x`` in float32 where autocast made it float16 or bfloat16; float32 and float64 stay.

    Box coordinates and losses need it: bfloat16 has 8 significant bits, two pixels at 512.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
