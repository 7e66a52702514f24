"""An architecture of FBNet: what stands in its file, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from registry import FBNET_PRIMITIVES, ConfigError
from registry.errors import nearest_phrase

#: What a list of stages can be for: the trunk, and the heads.
PARTS = ("backbone", "rpn", "bbox", "mask", "kpts", "head")
_KEYS = ("first", "stages", "block_op_type", "last", *PARTS, "rpn_stride", "provenance")

#: A place in an architecture's mapping, such as ("stages", 3, 0), and where that is for the reader.
Where = Callable[[tuple[Any, ...]], str]


@dataclass(frozen=True)
class Block:
    """One block, as its architecture has it: before SCALE_FACTOR.

    Attributes:
        stage, index: number of its stage, and its own in the stage, from 0.
        op: name in FBNET_PRIMITIVES.
        expansion: for the primitives whose name has none.
        channels: width of its output.
        stride: -2 doubles the resolution.
        where: place of its definition, for messages.
    """

    stage: int
    index: int
    op: str
    expansion: float
    channels: int
    stride: int
    where: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """Its published name, ``xif3_0``."""
        return f"xif{self.stage}_{self.index}"


@dataclass(frozen=True)
class Architecture:
    """The stages of an architecture, and which of them make what. Equal ones give equal networks.

    Attributes:
        first: channels, stride and kernel size of the first convolution.
        stages: the blocks of each stage.
        last: channels of the convolution that ends a head, 0 for none.
        parts: numbers of the stages that make the trunk ("backbone") and each head.
        rpn_stride: pixels between anchors that the RPN head is made for; None: any.
        name, where: what it is called and where it comes from, for messages.
        provenance: how it was found, for readers; nothing is made of it.
    """

    first: tuple[int, int, int]
    stages: tuple[tuple[Block, ...], ...]
    last: int
    parts: Mapping[str, tuple[int, ...]]
    rpn_stride: int | None = None
    name: str = field(default="", compare=False)
    where: str = field(default="", compare=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def blocks(self, part: str) -> tuple[Block, ...]:
        """The blocks of one part in a row, none where the architecture does not have it."""
        return tuple(block for stage in self.parts.get(part, ()) for block in self.stages[stage])


def parse_architecture(definition: Mapping[str, Any], name: str, where: Where) -> Architecture:
    """The architecture that a mapping describes, in the keys of the files in ``archs``.

    Without ``backbone`` the trunk is every stage but the last, as published.

    Raises:
        ConfigError: what is wrong, and where.
        UnknownNameError: there is no such primitive.
    """
    return _Parser(name, where).architecture(definition)


@dataclass(frozen=True)
class _Parser:
    name: str
    where: Where

    def error(self, message: str, *path: Any) -> ConfigError:
        return ConfigError(f"architecture {self.name!r}: {message} ({self.where(path)})")

    def architecture(self, definition: Mapping[str, Any]) -> Architecture:
        for key in definition:
            if key not in _KEYS:
                raise self.error(f"there is no key {key!r}{nearest_phrase(str(key), _KEYS)}", key)
        for key in ("first", "stages", "block_op_type"):
            if not isinstance(definition.get(key), list) or not definition[key]:
                raise self.error(f"{key} is a list, and has to be there", key)
        first = self.numbers(definition["first"], "first", names=("channels", "stride", "kernel size"))
        self.check_stride(first[1], (1, 2, 4), "first")
        stages = self.stages(definition["stages"], definition["block_op_type"])
        rpn_stride = definition.get("rpn_stride")
        if rpn_stride is not None:
            (rpn_stride,) = self.numbers([rpn_stride], "rpn_stride", names=("rpn_stride",))
        provenance = definition.get("provenance", {})
        if not isinstance(provenance, Mapping):
            raise self.error(f"provenance is a mapping, not {provenance!r}", "provenance")
        return Architecture(
            (first[0], first[1], first[2] if len(first) > 2 else 3),
            stages,
            self.last(definition.get("last", 0)),
            self.parts(definition, len(stages)),
            rpn_stride,
            self.name,
            self.where(()),
            provenance,
        )

    def stages(self, rows: list[Any], ops: list[Any]) -> tuple[tuple[Block, ...], ...]:
        if len(rows) != len(ops):
            raise self.error(
                f"there are {len(rows)} stages, but block_op_type is for {len(ops)}", "block_op_type"
            )
        return tuple(self.stage(i, *each) for i, each in enumerate(zip(rows, ops, strict=True)))

    def stage(self, stage: int, rows: Any, ops: Any) -> tuple[Block, ...]:
        if not isinstance(rows, list) or not rows:
            raise self.error("a stage is a list of [expansion, channels, repeats, stride]", "stages", stage)
        settings = [each for i, row in enumerate(rows) for each in self.row(row, ("stages", stage, i))]
        if not isinstance(ops, list) or len(ops) != len(settings):
            found = len(ops) if isinstance(ops, list) else repr(ops)
            raise self.error(
                f"stage {stage} has {len(settings)} blocks, but block_op_type has {found} primitives for it",
                "block_op_type",
                stage,
            )
        return tuple(
            self.block(stage, index, op, *setting)
            for index, (op, setting) in enumerate(zip(ops, settings, strict=True))
        )

    def row(self, row: Any, place: tuple[Any, ...]) -> list[tuple[float, int, Any]]:
        """Expansion, channels and stride of every block that a row stands for; only the first has the
        stride.
        """
        if not isinstance(row, list) or len(row) != 4:
            raise self.error(f"a row is [expansion, channels, repeats, stride], not {row!r}", *place)
        expansion, channels, repeats, stride = row
        if isinstance(expansion, bool) or not isinstance(expansion, int | float) or not expansion > 0:
            raise self.error(f"an expansion is a positive number, not {expansion!r}", *place)
        self.numbers([channels, repeats], *place, names=("channels", "repeats"))
        return [(expansion, channels, stride if i == 0 else 1) for i in range(repeats)]

    def block(self, stage: int, index: int, op: Any, expansion: float, channels: int, stride: Any) -> Block:
        place = ("block_op_type", stage, index)
        where = self.where(place)
        primitive = FBNET_PRIMITIVES.get(str(op), origin=f"architecture {self.name!r}, {where}")
        self.check_stride(stride, primitive.strides, *place, of=f" of {op}")
        return Block(stage, index, op, expansion, channels, stride, where)

    def check_stride(self, stride: Any, allowed: tuple[int, ...], *place: Any, of: str = "") -> None:
        if not _is_whole(stride) or stride not in allowed:
            choices = ", ".join(map(str, sorted(allowed)))
            raise self.error(f"the stride{of} cannot be {stride!r}, only {choices}", *place)

    def last(self, value: Any) -> int:
        """Channels of the last convolution, which may stand alone or before a published scale."""
        channels = value[0] if isinstance(value, list) and value else value
        if not _is_whole(channels) or channels < 0:
            raise self.error(f"last is a number of channels, not {value!r}", "last")
        return int(channels)

    def parts(self, definition: Mapping[str, Any], count: int) -> dict[str, tuple[int, ...]]:
        parts = {part: self.part(definition[part], part, count) for part in PARTS if part in definition}
        if "backbone" not in parts:
            return {"backbone": tuple(range(count - 1)), **parts}
        left = set(range(count)).difference(*parts.values())
        if left:
            raise self.error(f"stage {min(left)} is in none of {', '.join(parts)}", "stages", min(left))
        return parts

    def part(self, numbers: Any, part: str, count: int) -> tuple[int, ...]:
        if not isinstance(numbers, list) or not all(map(_is_whole, numbers)):
            raise self.error(f"{part} is a list of numbers of stages, not {numbers!r}", part)
        if numbers != sorted(set(numbers)):
            raise self.error(f"{part} lists its stages once each, in their order, not {numbers}", part)
        if numbers and not 0 <= numbers[0] <= numbers[-1] < count:
            raise self.error(f"{part} has {numbers}, but the stages are 0 to {count - 1}", part)
        return tuple(numbers)

    def numbers(self, values: list[Any], *place: Any, names: tuple[str, ...]) -> list[int]:
        """One positive whole number for each name; the third need not be there."""
        fits = min(len(names), 2) <= len(values) <= len(names)
        if not fits or not all(_is_whole(value) and value > 0 for value in values):
            raise self.error(f"{' and '.join(names)}: positive whole numbers, not {values}", *place)
        return values


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
