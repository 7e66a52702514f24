"""The small ResNets for images of about 32x32 pixels (He et al. 2015, section 4.2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers.conv import conv2d, conv_norm
from backbones.layers.norm import NormFactory, norm_from_cfg
from backbones.resnet.config import CIFAR_DEPTHS, CIFAR_NORMS_WITH_EPSILON
from backbones.resnet.transformations import BasicBlock
from backbones.spec import Backbone, FeatureInfo, Stage
from registry import NORMS, Config, ConfigError, lookup, parse_conv_body

_WIDTHS = (16, 32, 64)
_STEM_STRIDES = (1, 2, 4)


class CifarResNet(Backbone):
    """A 3x3 convolution and three groups of n basic blocks, each an output: 6n + 2 layers with a classifier.

    Groups 2 and 3 halve the resolution; their first blocks, where channels grow, are the ones whose shortcut
    is a projection. Convolutions start normal with variance 2 / fan out (He et al. 2015, "Delving deep").

    Args:
        blocks: n, the blocks of a group.
        cfg: reads MODEL.CIFAR_RESNETS.

    Raises:
        ConfigError: no channels, or another stride of the stem than 1, 2 or 4.
        UnknownNameError: no such norm.
    """

    def __init__(self, blocks: int, cfg: Config) -> None:
        super().__init__()
        options = cfg.MODEL.CIFAR_RESNETS
        if options.IN_CHANNELS < 1:
            raise ConfigError("at least 1 is needed", "MODEL.CIFAR_RESNETS.IN_CHANNELS", cfg)
        if options.STEM_STRIDE not in _STEM_STRIDES:
            raise ConfigError("must be 1, 2 or 4", "MODEL.CIFAR_RESNETS.STEM_STRIDE", cfg)
        norm = _norm(cfg)
        self.stem = CifarStem(options.IN_CHANNELS, _WIDTHS[0], options.STEM_STRIDE, norm)
        channels, infos = _WIDTHS[0], []
        for index, width in enumerate(_WIDTHS):
            layers = []
            for number in range(blocks):
                stride = 2 if index and not number else 1
                layers.append(BasicBlock(channels, width, width, stride=stride, norm=norm))
                channels = width
            self.add_module(f"layer{index + 1}", nn.Sequential(*layers))
            infos.append(FeatureInfo(f"layer{index + 1}", width, options.STEM_STRIDE * 2**index))
        self.feature_info = tuple(infos)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, IN_CHANNELS, H, W) -> features of the three groups, of 16, 32 and 64 channels."""
        x = self.stem(x)
        outputs = []
        for info in self.feature_info:
            x = self.get_submodule(info.name)(x)
            outputs.append(x)
        return outputs

    def stages(self) -> list[Stage]:
        """stem, layer1, layer2, layer3."""
        layers = [(info.name, [self.get_submodule(info.name)]) for info in self.feature_info]
        return [("stem", [self.stem]), *layers]


class CifarStem(nn.Module):
    """3x3 convolution, norm, ReLU; at stride 4 the 3x3 max pool of the larger ResNets follows."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: NormFactory) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = conv2d(in_channels, out_channels, 3, stride=min(stride, 2))
        self.bn1 = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        x = F.relu_(conv_norm(self.conv1, self.bn1, x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1) if self.stride == 4 else x


class ChannelBias(nn.Module):
    """What stands in the place of a norm where there is none: the bias that the convolutions leave out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        return x + self.bias[:, None, None]


def build_cifar_body(cfg: Config) -> CifarResNet:
    """Small ResNets (MODEL.CIFAR_RESNETS): R-20-CIFAR, R-32-CIFAR, R-44-CIFAR, R-56-CIFAR, R-110-CIFAR."""
    return CifarResNet(CIFAR_DEPTHS[parse_conv_body(cfg.MODEL.BACKBONE.CONV_BODY).body], cfg)


def _norm(cfg: Config) -> NormFactory:
    word = cfg.MODEL.CIFAR_RESNETS.NORM
    if not word:
        return ChannelBias
    lookup(NORMS, cfg, "MODEL.CIFAR_RESNETS.NORM")
    norm: Callable[..., nn.Module] = norm_from_cfg(cfg, word)
    if word in CIFAR_NORMS_WITH_EPSILON:
        return partial(norm, eps=cfg.MODEL.CIFAR_RESNETS.BN_EPSILON)
    return norm
