"""One layer of the supernet: every candidate of it, run one by one, batched, or a few of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.fbnet.primitives import InvertedResidual, Skip
from backbones.fbnet.units import ConvUnit

#: A candidate by its place, and the factor of its output, a scalar.
Pick = tuple[int, Tensor]


class MixedLayer(nn.Module):
    """The candidates of one layer, each a module with weights of its own.

    Inverted residuals that differ in their expansion alone make a bank: their first 1x1 convolutions run as
    one, their depthwise convolutions as one, and the norms of all banks' last convolutions as one, with the
    shares in its scales. The result is the sum of the candidates one by one, within rounding.
    """

    def __init__(self, candidates: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(candidates.values())
        self._banks, self._others = _banks(self.candidates)

    def naive(self, x: Tensor, shares: Tensor) -> Tensor:
        """sum_i shares_i * candidate_i(x), one candidate after the other; ``shares`` is (candidates,)."""
        return self.picked(x, list(enumerate(shares.unbind())))

    def picked(self, x: Tensor, picks: Sequence[Pick]) -> Tensor:
        """The weighted sum of a few candidates; no other one runs."""
        outputs = [share * self.candidates[index](x) for index, share in picks]
        return torch.stack(outputs).sum(0) if len(outputs) > 2 else sum(outputs[1:], outputs[0])

    def soft(self, x: Tensor, shares: Tensor) -> Tensor:
        """As ``naive``, batched."""
        if not self._banks:
            return self.naive(x, shares)
        x = x.contiguous(memory_format=torch.channels_last)
        order = list(chain.from_iterable(self._banks))
        blocks = [self._block(index) for index in order]
        outputs = torch.cat([y for bank in self._banks for y in self._bank(bank, x)], dim=1)
        norms = [_norm(block.pwl) for block in blocks]
        out = _batch_norm(outputs, norms, shares[order]).unflatten(1, (len(blocks), -1)).sum(1)
        # Where there is a shortcut, every candidate of the layer has it, and the identity is nothing else.
        shortcuts = [index for index, block in zip(order, blocks, strict=True) if block.residual]
        for index in self._others:
            if _is_identity(self.candidates[index]):
                shortcuts.append(index)
            else:
                out = out + shares[index] * self.candidates[index](x)
        return torch.addcmul(out, x, shares[shortcuts].sum().to(out)) if shortcuts else out

    def _bank(self, bank: Sequence[int], x: Tensor) -> list[Tensor]:
        """The outputs of a bank's last convolutions, before their norms."""
        blocks = [self._block(index) for index in bank]
        groups = blocks[0].pw.conv.groups
        widths = [block.pw.conv.out_channels for block in blocks]
        # A grouped convolution has the channels of its groups one after the other, all blocks in each.
        hidden = F.conv2d(x, _joined([block.pw.conv.weight for block in blocks], groups), groups=groups)
        hidden = _batch_norm(hidden, [_norm(block.pw) for block in blocks], groups=groups)
        hidden = blocks[0].pw.relu(hidden)
        if blocks[0].shuffle is not None:
            hidden = blocks[0].shuffle(hidden)  # and now those of a block are together
        depthwise: list[Any] = [block.dw for block in blocks]
        conv = depthwise[0].conv
        weight = torch.cat([unit.conv.weight for unit in depthwise])
        hidden = F.conv2d(hidden, weight, None, conv.stride, conv.padding, groups=len(weight))
        if hasattr(depthwise[0], "bn"):
            hidden = _batch_norm(hidden, [_norm(unit) for unit in depthwise])
        if hasattr(depthwise[0], "relu"):
            hidden = depthwise[0].relu(hidden)
        return [
            _pointwise(part, block.pwl.conv)
            for part, block in zip(hidden.split(widths, dim=1), blocks, strict=True)
        ]

    def _block(self, index: int) -> InvertedResidual:
        block = self.candidates[index]
        assert isinstance(block, InvertedResidual)
        return block


def _banks(candidates: nn.ModuleList) -> tuple[list[list[int]], list[int]]:
    """The candidates that batch together, and those that run alone."""
    banks: dict[tuple[int, int], list[int]] = {}
    others = []
    for index, block in enumerate(candidates):
        if isinstance(block, InvertedResidual) and _batches(block):
            depthwise: Any = block.dw
            banks.setdefault((depthwise.conv.kernel_size[0], block.pw.conv.groups), []).append(index)
        else:
            others.append(index)
    return list(banks.values()), others


def _batches(block: InvertedResidual) -> bool:
    """Whether a block is the plain one: one depthwise convolution, batch norm, nothing behind the sum."""
    if block.scale > 1 or not isinstance(block.dw, ConvUnit) or not isinstance(block.se4, nn.Sequential):
        return False
    norms = [unit.bn for unit in (block.pw, block.dw, block.pwl) if hasattr(unit, "bn")]
    return len(block.se4) == 0 and len(norms) > 1 and all(isinstance(norm, nn.BatchNorm2d) for norm in norms)


def _is_identity(block: nn.Module) -> bool:
    return isinstance(block, Skip) and not hasattr(block, "conv")


def _norm(unit: nn.Module) -> nn.BatchNorm2d:
    norm = unit.bn
    assert isinstance(norm, nn.BatchNorm2d)
    return norm


def _joined(tensors: Sequence[Tensor], groups: int = 1) -> Tensor:
    """Tensors of channels along dimension 0 as one; with groups, the first group of each comes first."""
    if groups == 1:
        return torch.cat(list(tensors))
    return torch.cat([each.unflatten(0, (groups, -1)) for each in tensors], dim=1).flatten(0, 1)


def _batch_norm(
    x: Tensor, norms: Sequence[nn.BatchNorm2d], shares: Tensor | None = None, groups: int = 1
) -> Tensor:
    """Several batch norms side by side, on (N, all their channels, H, W), each times its share."""
    weights, biases = ([getattr(norm, name) for norm in norms] for name in ("weight", "bias"))
    if shares is not None:
        weights = [share * weight for share, weight in zip(shares, weights, strict=True)]
        biases = [share * bias for share, bias in zip(shares, biases, strict=True)]
    means, variances = ([getattr(norm, f"running_{name}") for norm in norms] for name in ("mean", "var"))
    mean, variance = _joined(means, groups), _joined(variances, groups)
    first = norms[0]
    out = F.batch_norm(
        x, mean, variance, _joined(weights, groups), _joined(biases, groups),
        first.training, first.momentum or 0.0, first.eps,
    )  # fmt: skip
    if first.training:
        widths = [norm.num_features // groups for norm in norms]
        for joined, own in ((mean, means), (variance, variances)):
            for part, target in zip(joined.unflatten(0, (groups, -1)).split(widths, dim=1), own, strict=True):
                target.copy_(part.flatten())
        for norm in norms:
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked += 1
    return out


def _pointwise(x: Tensor, conv: nn.Module) -> Tensor:
    """A 1x1 convolution of some channels of a channels_last tensor, which a matrix product reads in place."""
    assert isinstance(conv, nn.Conv2d)
    if conv.groups > 1:
        return F.conv2d(x, conv.weight, groups=conv.groups)
    return (x.permute(0, 2, 3, 1) @ conv.weight.flatten(1).t()).permute(0, 3, 1, 2)
