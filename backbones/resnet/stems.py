"""Stems: the first layers of a ResNet, image (N, 3, H, W) to features at stride 4."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers.conv import conv_norm, init_conv
from backbones.layers.norm import norm_from_cfg
from registry import STEM_MODULES, Config


class Stem(nn.Module):
    """7x7 convolution of stride 2, norm, ReLU, 3x3 max pool of stride 2 (He et al. 2015, table 1).

    A subclass names its norm. Any class whose ``__init__`` takes the config and whose ``out_channels`` and
    ``stride`` are true can be registered in STEM_MODULES.
    """

    norm = "FrozenBN"
    stride = 4

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.out_channels: int = cfg.MODEL.RESNETS.STEM_OUT_CHANNELS
        self.conv1 = nn.Conv2d(3, self.out_channels, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm_from_cfg(cfg, self.norm)(self.out_channels)
        init_conv(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, out_channels, ceil(H / 4), ceil(W / 4))."""
        x = F.relu_(conv_norm(self.conv1, self.bn1, x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


@STEM_MODULES.register("StemWithFixedBatchNorm")
class StemWithFixedBatchNorm(Stem):
    """The stem with frozen batch norm."""

    norm = "FrozenBN"


@STEM_MODULES.register("StemWithGN")
class StemWithGN(Stem):
    """The stem with group norm."""

    norm = "GN"


@STEM_MODULES.register("StemWithBatchNorm")
class StemWithBatchNorm(Stem):
    """The stem with batch norm."""

    norm = "BN"


@STEM_MODULES.register("StemWithSyncBN")
class StemWithSyncBN(Stem):
    """The stem with batch norm over all processes."""

    norm = "SyncBN"
