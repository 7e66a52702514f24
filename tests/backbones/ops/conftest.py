"""Deformable convolutions of every kind, small."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """Numbers that determine a deformable convolution; options vertical first."""

    batch: int = 2
    groups: int = 2
    deformable_groups: int = 2
    channels: int = 4  # of the input
    out_channels: int = 2  # per group
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    out_size: tuple[int, int] = (4, 3)
    bias: bool = True
    mask: bool = True
    seed: int = 0

    @property
    def options(self) -> tuple[int, ...]:
        return (*self.stride, *self.padding, *self.dilation)

    def tensors(self, dtype: torch.dtype = torch.float64) -> list[Tensor | None]:
        """input, offset, weight, bias and mask. Offsets reach past the borders, never onto a pixel's row."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        size = [
            max(1, (out - 1) * s + d * (k - 1) + 1 - 2 * p)
            for out, s, d, k, p in zip(
                self.out_size, self.stride, self.dilation, self.kernel, self.padding, strict=True
            )
        ]
        out_size = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, s, d, k, p in zip(size, self.stride, self.dilation, self.kernel, self.padding, strict=True)
        ]
        taps = self.deformable_groups * self.kernel[0] * self.kernel[1]
        offset = draw(self.batch, 2 * taps, *out_size) * 2
        return [
            draw(self.batch, self.channels, *size),
            offset.round() + (offset - offset.round()).clamp(-0.4, 0.4) + 0.05,
            draw(self.out_channels * self.groups, self.channels // self.groups, *self.kernel),
            draw(self.out_channels * self.groups) if self.bias else None,
            draw(self.batch, taps, *out_size).sigmoid() if self.mask else None,
        ]

    def edges(self, wild: bool) -> list[Tensor | None]:
        """The same with offsets that are multiples of half a pixel; every fifth ``wild``."""
        tensors = self.tensors()
        offset = tensors[1]
        assert offset is not None
        offset.mul_(2).round_().div_(2)
        if wild:
            odd = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e9, -1e30], dtype=torch.float64)
            every_fifth = offset.view(-1)[::5]
            every_fifth.copy_(odd.repeat(len(every_fifth))[: len(every_fifth)])
        return tensors


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def any_case(draw: st.DrawFn) -> Case:
    groups, deformable_groups = draw(st.sampled_from([(1, 1), (1, 3), (2, 1), (3, 2), (2, 4), (6, 6)]))
    multiple = draw(st.integers(1, 2))
    return Case(
        batch=draw(st.integers(1, 3)),
        groups=groups,
        deformable_groups=deformable_groups,
        channels=12 * multiple,
        out_channels=draw(st.integers(1, 3)),
        kernel=draw(pairs(1, 3)),
        stride=draw(pairs(1, 3)),
        padding=draw(pairs(0, 2)),
        dilation=draw(pairs(1, 2)),
        out_size=draw(pairs(1, 5)),
        bias=draw(st.booleans()),
        mask=draw(st.booleans()),
        seed=draw(st.integers(0, 999)),
    )


@pytest.fixture(scope="session")
def cases() -> st.SearchStrategy[Case]:
    return any_case()


@pytest.fixture(scope="session")
def new_case() -> type[Case]:
    return Case


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
