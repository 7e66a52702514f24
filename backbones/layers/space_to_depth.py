"""Space to depth: resolution becomes channels, nothing is lost."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def space_to_depth(x: Tensor, block: int = 4) -> Tensor:
    """(N, C, H, W) -> (N, block * block * C, ceil(H / block), ceil(W / block)).

    Channel (row * block + column) * C + c is channel c of the pixels at that row and column of the blocks;
    ``F.pixel_unshuffle`` orders them the other way round. Sides that do not divide are padded with zeros at
    the right and bottom.
    """
    height, width = x.shape[-2:]
    x = F.pad(x, (0, -width % block, 0, -height % block))
    count, channels, height, width = x.shape
    x = x.view(count, channels, height // block, block, width // block, block)
    x = x.permute(0, 3, 5, 1, 2, 4)
    return x.reshape(count, block * block * channels, height // block, width // block)
