"""Space to depth: resolution becomes channels, nothing is lost."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def space_to_depth(x: Tensor, block: int = 4) -> Tensor:
    """(N, C, H, W) -> (N, block * block * C, ceil(H / block), ceil(W / block)).

    Channel (row * block + column) * C + c is channel c of the pixels at that row and column of the blocks;
    ``F.pixel_unshuffle`` orders them the other way round. Sides that do not divide are padded with zeros at
    the right and bottom. The output has the memory format of ``x``.
    """
    height, width = x.shape[-2:]
    x = F.pad(x, (0, -width % block, 0, -height % block))
    count, channels, height, width = x.shape
    blocks = x.view(count, channels, height // block, block, width // block, block)
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return blocks.permute(0, 2, 4, 3, 5, 1).flatten(3).permute(0, 3, 1, 2)
    blocks = blocks.permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(count, block * block * channels, height // block, width // block)
