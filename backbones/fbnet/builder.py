"""From blocks to modules: widths, options, and the names that the published builder gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from torch import nn

from backbones.fbnet.arch import Architecture, Block
from backbones.fbnet.units import ACTIVATIONS, ConvUnit, UnitOptions, round_width
from backbones.layers.norm import NormFactory, norm_from_cfg
from registry import FBNET_PRIMITIVES, NORMS, Config, ConfigError, lookup
from registry.errors import nearest_phrase
from registry.tree import value_of

_NORM_WORDS = {"bn": "BN", "af": "FrozenBN", "gn": "GN"}


@dataclass(frozen=True)
class PlacedBlock:
    """A block with the widths that it is built with, and the stride of its output in input pixels."""

    block: Block
    in_channels: int
    out_channels: int
    stride: float


@dataclass(frozen=True)
class Builder:
    """Makes the modules of a network.

    Attributes:
        options: shared by all blocks.
        scale: SCALE_FACTOR, of the widths of an architecture.
    """

    options: UnitOptions
    scale: float = 1.0

    def width(self, channels: float) -> int:
        """A width of the architecture as it is built."""
        return round_width(int(channels * self.scale), self.options.width_divisor)

    def place(self, blocks: Iterable[Block], in_channels: int, stride: float = 1) -> Iterator[PlacedBlock]:
        """Each block with its widths, from an input of ``in_channels`` at ``stride`` on."""
        for block in blocks:
            stride = stride * block.stride if block.stride > 0 else stride / -block.stride
            placed = PlacedBlock(block, in_channels, self.width(block.channels), stride)
            in_channels = placed.out_channels
            yield placed

    def first(self, architecture: Architecture, in_channels: int = 3) -> ConvUnit:
        """The convolution that an architecture begins with."""
        channels, stride, kernel_size = architecture.first
        norm, activation = self.options.norm, self.options.activation
        return ConvUnit(in_channels, self.width(channels), kernel_size, stride, norm, activation)

    def block(self, placed: PlacedBlock) -> nn.Module:
        """One block.

        Raises:
            ConfigError: its primitive cannot have these widths.
        """
        block = placed.block
        primitive = FBNET_PRIMITIVES[block.op]
        try:
            module: nn.Module = primitive.build(
                placed.in_channels, placed.out_channels, block.expansion, block.stride, self.options
            )
        except ConfigError as error:
            raise ConfigError(f"{block.op} as {block.name}: {error} ({block.where})") from error
        return module

    def blocks(self, blocks: Iterable[Block], in_channels: int) -> nn.Sequential:
        """Blocks in a row, under their published names."""
        row = nn.Sequential()
        for placed in self.place(blocks, in_channels):
            row.add_module(placed.block.name, self.block(placed))
        return row

    def last_width(self, architecture: Architecture, scale: float, in_channels: int) -> int:
        """Width of the convolution that ends a head, 0 where there is none.

        A negative ``scale`` is a factor of ``in_channels``, the width before it; a positive one a factor of
        the width in the architecture, which SCALE_FACTOR only widens, as published.
        """
        width = int(int(architecture.last * max(self.scale, 1.0)) * scale)
        if scale < 0:
            width = int(in_channels * -scale)
        return round_width(width, self.options.width_divisor) if width else 0

    def last(self, in_channels: int, width: int) -> nn.Sequential:
        """A 1x1 convolution to ``width`` channels, or nothing for 0."""
        if not width:
            return nn.Sequential()
        return ConvUnit(in_channels, width, 1, 1, self.options.norm, self.options.activation)


def builder_from_cfg(cfg: Config, norm_key: str = "MODEL.FBNET.BN_TYPE") -> Builder:
    """The builder that MODEL.FBNET describes.

    Raises:
        ConfigError: a value that cannot be.
        UnknownNameError: no such norm.
    """
    node = cfg.MODEL.FBNET
    if node.SCALE_FACTOR <= 0:
        raise ConfigError("a positive factor is needed", "MODEL.FBNET.SCALE_FACTOR", cfg)
    if node.WIDTH_DIVISOR < 0:
        raise ConfigError("0 or more is needed", "MODEL.FBNET.WIDTH_DIVISOR", cfg)
    if node.ACTIVATION not in ACTIVATIONS:
        close = nearest_phrase(node.ACTIVATION, ACTIVATIONS)
        raise ConfigError(
            f"an activation is one of {', '.join(ACTIVATIONS)}{close}", "MODEL.FBNET.ACTIVATION", cfg
        )
    options = UnitOptions(
        norm=norm_of_word(cfg, norm_key),
        activation=ACTIVATIONS[node.ACTIVATION],
        width_divisor=node.WIDTH_DIVISOR,
        dw_norm=not node.DW_CONV_SKIP_BN,
        dw_activation=not node.DW_CONV_SKIP_RELU,
    )
    return Builder(options, node.SCALE_FACTOR)


def norm_of_word(cfg: Config, key: str) -> NormFactory:
    """The norm that the word at ``key`` stands for: "bn", "af", "gn", or a name in NORMS."""
    word = value_of(cfg, key)
    if word not in _NORM_WORDS:
        lookup(NORMS, cfg, key)
    return norm_from_cfg(cfg, _NORM_WORDS.get(word, word))


def with_first_stride(blocks: tuple[Block, ...], stride: int) -> tuple[Block, ...]:
    """The blocks with another stride in the first."""
    return (replace(blocks[0], stride=stride), *blocks[1:])
