"""What is searched: layers, each of which becomes one of several blocks."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from backbones.fbnet.arch import Architecture, Block, parse_architecture
from backbones.fbnet.builder import Builder, PlacedBlock, builder_from_cfg
from backbones.fbnet.units import ConvUnit
from registry import FBNET_PRIMITIVES, Config, ConfigError

_KEY = "SEARCH.SPACE"


@dataclass(frozen=True)
class Layer:
    """One place of the network, and what may stand there.

    Attributes:
        in_channels, out_channels: widths, in the network as it is built.
        stride: in the architecture.
        train_stride: in the supernet.
        side: of the input in the architecture, pixels.
        channels: width of the output as the architecture has it, before MODEL.FBNET.SCALE_FACTOR.
    """

    in_channels: int
    out_channels: int
    stride: int
    train_stride: int
    side: int
    channels: int


@dataclass(frozen=True)
class SearchSpace:
    """Layers in a row behind a first convolution, and the candidates of every layer.

    An architecture is one candidate for each layer: a tuple of names.
    """

    first: tuple[int, int]
    first_train_stride: int
    layers: tuple[Layer, ...]
    candidates: tuple[str, ...]
    builder: Builder

    def first_convolution(self, in_channels: int, *, training: bool = False) -> ConvUnit:
        """The convolution before the layers; ``training``: with the stride that the supernet has."""
        channels, stride = self.first
        architecture = Architecture((channels, self.first_train_stride if training else stride, 3), (), 0, {})
        return self.builder.first(architecture, in_channels)

    def block(self, layer: Layer, op: str, *, training: bool = False) -> nn.Module:
        """A candidate of a layer, of random weights. Raises ConfigError where it cannot have these widths."""
        stride = layer.train_stride if training else layer.stride
        block = Block(0, 0, op, 1, layer.channels, stride, f"{_KEY}.CANDIDATES")
        return self.builder.block(PlacedBlock(block, layer.in_channels, layer.out_channels, stride))

    def random(self, generator: random.Random) -> tuple[str, ...]:
        """An architecture, all equally likely."""
        return tuple(generator.choice(self.candidates) for _ in self.layers)

    def definition(
        self, choice: Sequence[str], provenance: Mapping[str, Any] | None = None, *, training: bool = False
    ) -> dict[str, Any]:
        """What the file of an architecture holds: every block a stage, all of them the trunk.

        ``training``: with the strides of the supernet, not those of the architecture.
        """
        return {
            "first": [self.first[0], self.first_train_stride if training else self.first[1]],
            "stages": [
                [[_expansion(op), layer.channels, 1, layer.train_stride if training else layer.stride]]
                for layer, op in zip(self.layers, choice, strict=True)
            ],
            "block_op_type": [[op] for op in choice],
            "last": 0,
            "backbone": list(range(len(self.layers))),
            **({"provenance": dict(provenance)} if provenance else {}),
        }

    def architecture(self, choice: Sequence[str], name: str = "searched") -> Architecture:
        """An architecture of this space, ready to be built."""
        return parse_architecture(self.definition(choice), name, lambda path: f"{name}, {path}")


def space_from_cfg(cfg: Config) -> SearchSpace:
    """The space of SEARCH.SPACE, its widths and options those of MODEL.FBNET.

    Raises:
        ConfigError: a row or stride that cannot be, or a candidate twice.
        UnknownNameError: a candidate that is no primitive.
    """
    node, builder = cfg.SEARCH.SPACE, builder_from_cfg(cfg)
    candidates = tuple(node.CANDIDATES)
    for op in candidates:
        FBNET_PRIMITIVES.get(str(op), origin=f"{_KEY}.CANDIDATES")
    if not candidates or len(set(candidates)) < len(candidates):
        raise ConfigError("one candidate or more, each once", f"{_KEY}.CANDIDATES", cfg)
    channels, stride = _row(cfg, "FIRST", node.FIRST, 2)
    rows = [_row(cfg, "BLOCKS", row, 3) for row in node.BLOCKS]
    if not rows:
        raise ConfigError("there is no block to search", f"{_KEY}.BLOCKS", cfg)
    strides = _row(
        cfg, "TRAIN_STRIDES", node.TRAIN_STRIDES or [stride, *(row[2] for row in rows)], len(rows) + 1
    )
    if not {stride, *strides, *(row[2] for row in rows)} <= {1, 2}:
        raise ConfigError("strides are 1 or 2", f"{_KEY}.BLOCKS", cfg)
    side, before = _halved(cfg.SEARCH.LATENCY.SIZE, stride), builder.width(channels)
    layers = []
    for (width, repeats, row_stride), train_stride in zip(rows, strides[1:], strict=True):
        for index in range(repeats):
            own, in_training = (row_stride, train_stride) if index == 0 else (1, 1)
            layers.append(Layer(before, builder.width(width), own, in_training, side, width))
            side, before = _halved(side, own), builder.width(width)
    return SearchSpace((channels, stride), strides[0], tuple(layers), candidates, builder)


def _row(cfg: Config, name: str, row: Any, length: int) -> list[int]:
    if (
        not isinstance(row, list | tuple)
        or len(row) != length
        or not all(type(n) is int and n > 0 for n in row)
    ):
        raise ConfigError(f"{length} positive whole numbers are needed, not {row!r}", f"{_KEY}.{name}", cfg)
    return list(row)


def _halved(side: int, stride: int) -> int:
    return -(-side // stride)


def _expansion(op: str) -> int:
    """The expansion in a primitive's name, which its row in a file repeats."""
    found = re.search(r"_e(\d)", op)
    return int(found[1]) if found else 1
