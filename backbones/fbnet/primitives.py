"""The 39 building blocks of FBNet under their published names (Wu et al. 2018, arXiv 1812.03443, table 2).

Names: ``ir`` is an inverted residual; ``k`` the kernel of its depthwise convolution, ``e`` its expansion,
where that is not the stage's; ``s`` the groups of its pointwise convolutions, shuffled between; ``se`` has
squeeze-excite; ``k33`` and ``sep`` have two depthwise convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.fbnet.units import ChannelShuffle, ConvUnit, SqueezeExcite, UnitOptions, round_width
from registry import FBNET_PRIMITIVES, ConfigError

DOWN = (1, 2)
ANY = (1, 2, 4, -1, -2, -4)


@dataclass(frozen=True)
class Primitive:
    """One entry of FBNET_PRIMITIVES.

    Attributes:
        build: ``build(in_channels, out_channels, expansion, stride, options)`` gives the block, a module
            (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride).
        strides: what it can have for a stride; -2 doubles the resolution.
    """

    build: Callable[[int, int, float, int, UnitOptions], nn.Module]
    strides: tuple[int, ...] = DOWN


class InvertedResidual(nn.Module):
    """1x1 convolution that widens, depthwise convolution, 1x1 convolution without an activation; and a
    shortcut where the shape stays (Sandler et al. 2018, arXiv 1801.04381, section 3.3).

    Args:
        in_channels, out_channels: width of input and output.
        expansion: width between the 1x1 convolutions, as a multiple of ``in_channels``.
        stride: of the first depthwise convolution; -2 or -4 upsamples before it instead.
        options: shared by all blocks of a network.
        kernel_size: of the depthwise convolutions; with 1 there are none, and nothing applies a stride.
        groups: of the 1x1 convolutions; with more than one, channels are shuffled behind the first.
        depthwise: how many depthwise convolutions, 1 or 2.
        squeeze_excite: whether there is squeeze-excite, on the sum.

    Raises:
        ConfigError: a width that does not divide by ``groups``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: float,
        stride: int,
        options: UnitOptions,
        *,
        kernel_size: int = 3,
        groups: int = 1,
        depthwise: int = 1,
        squeeze_excite: bool = False,
    ) -> None:
        super().__init__()
        width = round_width(in_channels * expansion, options.width_divisor)
        for channels in (in_channels, width, out_channels):
            if channels % groups:
                raise ConfigError(
                    f"1x1 convolutions of {groups} groups cannot have {channels} channels "
                    f"({in_channels} in, {width} between, {out_channels} out); "
                    f"choose widths that divide by {groups}"
                )
        norm, activation = options.norm, options.activation
        dw_norm = norm if options.dw_norm else None
        dw_activation = activation if options.dw_activation else None
        self.pw = ConvUnit(in_channels, width, 1, 1, norm, activation, groups)
        self.shuffle = ChannelShuffle(groups) if groups > 1 else None
        self.scale = max(-stride, 1)
        down = max(stride, 1)
        self.dw: nn.Module
        if kernel_size == 1:
            self.dw = nn.Sequential()
        elif depthwise == 1:
            self.dw = ConvUnit(width, width, kernel_size, down, dw_norm, dw_activation, width)
        else:
            self.dw = nn.Sequential()
            self.dw.dw1 = ConvUnit(width, width, kernel_size, down, norm, activation, width)
            self.dw.dw2 = ConvUnit(width, width, kernel_size, 1, dw_norm, dw_activation, width)
        self.pwl = ConvUnit(width, out_channels, 1, 1, norm, None, groups)
        self.se4 = SqueezeExcite(out_channels) if squeeze_excite else nn.Sequential()
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        out: Tensor = self.pw(x)
        if self.shuffle is not None:
            out = self.shuffle(out)
        if self.scale > 1:
            out = F.interpolate(out, scale_factor=self.scale, mode="nearest")
        out = self.pwl(self.dw(out))
        out = out + x if self.residual else out
        out = self.se4(out)
        return out


class Skip(nn.Module):
    """Nothing, or, where the shape changes, ``conv``: 1x1 convolution, norm and activation."""

    def __init__(
        self, in_channels: int, out_channels: int, expansion: float, stride: int, options: UnitOptions
    ) -> None:
        super().__init__()
        if in_channels != out_channels or stride != 1:
            self.conv = ConvUnit(in_channels, out_channels, 1, stride, options.norm, options.activation)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        return self.conv(x) if hasattr(self, "conv") else x


class _Residual(nn.Sequential):
    """Layers in a row, and a shortcut where the shape stays."""

    def __init__(self, residual: bool, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)
        return out + x if self.residual else out


class BasicBlock(_Residual):
    """Two 3x3 convolutions, the stride in the first; nothing is expanded."""

    def __init__(
        self, in_channels: int, out_channels: int, expansion: float, stride: int, options: UnitOptions
    ) -> None:
        super().__init__(
            stride == 1 and in_channels == out_channels,
            nn.Conv2d(in_channels, in_channels, 3, stride, 1, bias=False),
            options.norm(in_channels),
            options.activation(),
            nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False),
            options.norm(out_channels),
        )


class ShiftBlock(_Residual):
    """1x1 convolution that widens to a multiple of 8, a 5x5 shift, 1x1 convolution (Wu et al. 2017,
    arXiv 1711.08141).
    """

    def __init__(
        self, in_channels: int, out_channels: int, expansion: float, stride: int, options: UnitOptions
    ) -> None:
        width = round_width(in_channels * expansion, 8)
        super().__init__(
            stride == 1 and in_channels == out_channels,
            nn.Conv2d(in_channels, width, 1, bias=False),
            options.norm(width),
            options.activation(),
            Shift(width, 5, stride),
            nn.Conv2d(width, out_channels, 1, bias=False),
            options.norm(out_channels),
        )


class Shift(nn.Module):
    """Moves every channel by one of ``kernel_size`` ** 2 displacements: a fixed depthwise convolution.

    Each displacement has an equal share of the channels; what is left over stays in place.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.stride, self.padding = stride, kernel_size // 2
        places = kernel_size**2
        counts = torch.full((places,), channels // places)
        counts[places // 2] += channels % places
        chosen = torch.arange(places).repeat_interleave(counts)
        kernel = F.one_hot(chosen, places).float().view(channels, 1, kernel_size, kernel_size)
        self.kernel = nn.Parameter(kernel, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride))."""
        return F.conv2d(x, self.kernel, None, self.stride, self.padding, groups=len(self.kernel))


def inverted_residual(
    expansion: float | None = None,
    kernel_size: int = 3,
    groups: int = 1,
    depthwise: int = 1,
    squeeze_excite: bool = False,
) -> Primitive:
    """An inverted residual as a primitive; with ``expansion`` None it has the expansion of its stage."""

    def build(
        in_channels: int, out_channels: int, of_stage: float, stride: int, options: UnitOptions
    ) -> nn.Module:
        return InvertedResidual(
            in_channels,
            out_channels,
            of_stage if expansion is None else expansion,
            stride,
            options,
            kernel_size=kernel_size,
            groups=groups,
            depthwise=depthwise,
            squeeze_excite=squeeze_excite,
        )

    return Primitive(build, ANY if kernel_size > 1 else tuple(s for s in ANY if s < 2))


def _register() -> None:
    register = FBNET_PRIMITIVES.register
    register("skip", Primitive(Skip, (1, 2, 4)))
    register("basic_block", Primitive(BasicBlock))
    register("shift_5x5", Primitive(ShiftBlock))
    register("shuffle", inverted_residual(groups=4))
    for kernel_size in (1, 3, 5, 7):
        register(f"ir_k{kernel_size}", inverted_residual(kernel_size=kernel_size))
    for kernel_size in (3, 5, 7):
        for expansion in (1, 3, 6):
            register(f"ir_k{kernel_size}_e{expansion}", inverted_residual(expansion, kernel_size))
    for kernel_size in (3, 5):
        for groups, expansion in ((2, 1), (4, 4)):
            register(f"ir_k{kernel_size}_s{groups}", inverted_residual(expansion, kernel_size, groups))
            register(
                f"ir_k{kernel_size}_s{groups}_se",
                inverted_residual(expansion, kernel_size, groups, squeeze_excite=True),
            )
        for expansion in (1, 3, 6):
            register(
                f"ir_k{kernel_size}_e{expansion}_se",
                inverted_residual(expansion, kernel_size, squeeze_excite=True),
            )
    for kernel_size, name in ((3, "ir_k33"), (7, "ir_k7_sep")):
        register(f"ir_k{kernel_size}_sep", inverted_residual(None, kernel_size, depthwise=2))
        for expansion in (1, 3, 6):
            register(f"{name}_e{expansion}", inverted_residual(expansion, kernel_size, depthwise=2))


_register()
