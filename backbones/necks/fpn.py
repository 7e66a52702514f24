"""Feature pyramid networks (Lin et al. 2017), with the extra levels of Faster R-CNN and of RetinaNet."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers.conv import conv2d
from backbones.layers.norm import NormFactory, norm_from_cfg
from backbones.layers.quick_conv import is_plain
from backbones.layers.recompute import not_kept, recompute_from_cfg, watched
from backbones.spec import FeatureInfo
from registry import NORMS, Config, ConfigError, lookup


class ConvFactory(Protocol):
    """Makes a convolution that keeps the resolution at stride 1, with what follows it."""

    def __call__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1
    ) -> nn.Module: ...


class FPN(nn.Module):
    """Lateral 1x1 convolutions, a top-down sum, a 3x3 convolution per level, then extra coarser levels.

    Each level is upsampled to the size of the lateral it meets, so any image size works. Layers are called
    ``fpn_inner{i}`` and ``fpn_layer{i}``, i being the level: 1 at stride 4, 2 at 8, and so on.

    Args:
        feature_info: of all features of the body.
        min_level: features below this level are not used.
        out_channels: width of every output.
        conv: makes the convolutions.
        top_blocks: makes the extra levels from the coarsest feature and the coarsest output.
        recompute: the backward pass computes what the 3x3 convolutions read again, from the body's features,
            where the lateral convolutions are convolutions alone.
    """

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        min_level: int,
        out_channels: int,
        conv: ConvFactory,
        top_blocks: LastLevelMaxPool | LastLevelP6P7,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        if out_channels < 1:
            raise ConfigError(f"MODEL.RESNETS.BACKBONE_OUT_CHANNELS is {out_channels}, at least 1 is needed")
        levels = pyramid_levels(feature_info)
        chosen = [i for i, level in enumerate(levels) if level >= min_level]
        if not chosen:
            strides = [info.stride for info in feature_info]
            raise ConfigError(
                f"this pyramid starts at stride {2 ** (min_level + 1)}; the body gives {strides}"
            )
        self._chosen = chosen
        self._levels = [levels[i] for i in chosen]
        self.used = tuple(feature_info[i] for i in chosen)
        for level, info in zip(self._levels, self.used, strict=True):
            self.add_module(f"fpn_inner{level}", conv(info.channels, out_channels, 1))
            self.add_module(f"fpn_layer{level}", conv(out_channels, out_channels, 3))
        self.top_blocks = top_blocks
        outputs = [(level, info.stride) for level, info in zip(self._levels, self.used, strict=True)]
        for _ in range(top_blocks.count):
            level, stride = outputs[-1]
            outputs.append((level + 1, 2 * stride))
        self.feature_info = tuple(FeatureInfo(f"p{level + 1}", out_channels, s) for level, s in outputs)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """All features of the body, finest first -> the pyramid, finest first."""
        outputs = self.levels(features)
        return outputs + self.top_blocks(features[self._chosen[-1]], outputs[-1])

    def levels(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The levels that features of the body have, finest first."""
        chosen = [features[i] for i in self._chosen]
        inner = self._inner(*chosen)
        with not_kept(inner, self._inner, *chosen) if self._can_recompute() else nullcontext():
            layers = self._layers("fpn_layer")
            return [layer(each) for layer, each in zip(layers, inner, strict=True)]

    def _inner(self, *features: Tensor) -> list[Tensor]:
        """What the 3x3 convolutions read, of the features in use, finest first."""
        inner: list[Tensor] = []
        for feature, layer in zip(reversed(features), reversed(self._layers("fpn_inner")), strict=True):
            lateral = layer(feature)
            if inner:
                lateral = lateral + F.interpolate(inner[-1], size=lateral.shape[-2:], mode="nearest")
            inner.append(lateral)
        return inner[::-1]

    def _layers(self, name: str) -> list[nn.Module]:
        return [self.get_submodule(f"{name}{level}") for level in self._levels]

    def _can_recompute(self) -> bool:
        laterals = self._layers("fpn_inner")
        return self.recompute and all(map(is_plain, laterals)) and not watched(*laterals)


class LastLevelMaxPool(nn.Module):
    """One extra level: every second pixel of the coarsest (Lin et al. 2017, section 4.1)."""

    count = 1

    def forward(self, feature: Tensor, output: Tensor) -> list[Tensor]:
        """Coarsest feature of the body (unused) and coarsest output -> [next level]."""
        return [F.max_pool2d(output, kernel_size=1, stride=2)]


class LastLevelP6P7(nn.Module):
    """Two extra levels, by 3x3 convolutions of stride 2 (Lin et al. 2017, Focal Loss, footnote 2).

    They start from the body's coarsest feature when ``in_channels`` is its width, and from the coarsest
    output when it equals ``out_channels``: where both widths are equal the published models use the output.
    """

    count = 2

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.p6 = conv2d(in_channels, out_channels, 3, stride=2, bias=True)
        self.p7 = conv2d(out_channels, out_channels, 3, stride=2, bias=True)
        self._from_output = in_channels == out_channels

    def forward(self, feature: Tensor, output: Tensor) -> list[Tensor]:
        """Coarsest feature of the body and coarsest output -> [P6, P7]."""
        p6 = self.p6(output if self._from_output else feature)
        return [p6, self.p7(F.relu(p6))]


def build_fpn(cfg: Config, feature_info: Sequence[FeatureInfo]) -> FPN:
    """Pyramid over strides 4 to 32, and 64 by pooling (MODEL.FPN)."""
    width = cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS
    return FPN(feature_info, 1, width, conv_factory(cfg), LastLevelMaxPool(), recompute_from_cfg(cfg))


def build_retinanet_fpn(cfg: Config, feature_info: Sequence[FeatureInfo]) -> FPN:
    """Pyramid over strides 8 to 32, and 64 and 128 by convolutions (MODEL.FPN, MODEL.RETINANET.USE_C5)."""
    width = cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS
    top = LastLevelP6P7(feature_info[-1].channels if cfg.MODEL.RETINANET.USE_C5 else width, width)
    return FPN(feature_info, 2, width, conv_factory(cfg), top, recompute_from_cfg(cfg))


def pyramid_levels(feature_info: Sequence[FeatureInfo]) -> list[int]:
    """Level of each feature: 1 at stride 4, 2 at 8, ...; one more than the last where dilation kept the
    stride.

    >>> pyramid_levels([FeatureInfo("", 1, stride) for stride in (4, 8, 16, 16)])
    [1, 2, 3, 4]
    """
    levels: list[int] = []
    for info in feature_info:
        level = info.stride.bit_length() - 2
        levels.append(max(level, levels[-1] + 1) if levels else level)
    return levels


def conv_factory(cfg: Config) -> ConvFactory:
    """Makes the neck's convolutions as MODEL.FPN says: plain, or a Sequential with norm and ReLU.

    Raises:
        ConfigError: USE_GN and another NORM.
    """
    word = cfg.MODEL.FPN.NORM
    if cfg.MODEL.FPN.USE_GN:
        if word not in ("", "GN"):
            raise ConfigError("MODEL.FPN.USE_GN asks for another norm", "MODEL.FPN.NORM", cfg)
        word = "GN"
    elif word:
        lookup(NORMS, cfg, "MODEL.FPN.NORM")
    norm: NormFactory | None = norm_from_cfg(cfg, word) if word else None

    def make(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Module:
        conv = conv2d(in_channels, out_channels, kernel_size, stride=stride, bias=norm is None)
        layers: list[nn.Module] = [conv]
        if norm is not None:
            layers.append(norm(out_channels))
        if cfg.MODEL.FPN.USE_RELU:
            layers.append(nn.ReLU(inplace=True))
        return nn.Sequential(*layers) if len(layers) > 1 else layers[0]

    return make
