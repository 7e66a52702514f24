"""Squeeze and excitation (Hu et al. 2017, arXiv 1709.01507), and the pooling that classifiers share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def global_average_pool(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C): a view and a mean."""
    return x.flatten(2).mean(2)


class SqueezeExcite(nn.Module):
    """Scales each channel by a factor in (0, 1) that two small layers find from the means of all channels."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, kernel_size=1)
        self.fc2 = nn.Conv2d(hidden, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        factor = F.relu_(self.fc1(global_average_pool(x)[:, :, None, None]))
        return x * self.fc2(factor).sigmoid_()
