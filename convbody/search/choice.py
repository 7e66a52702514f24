"""Choosing among candidates in a way that can be differentiated, and the loss of a choice."""

from __future__ import annotations

import torch
from torch import Tensor

#: For each layer, the candidates that run, each with the factor of its output, a scalar.
Draw = list[list[tuple[int, Tensor]]]


def gumbel_shares(theta: Tensor, temperature: float) -> Tensor:
    """softmax((theta + g) / temperature) along the last dimension, g from Gumbel(0, 1) (Jang et al. 2016,
    arXiv 1611.01144, section 2). Draws from torch's generator of the CPU.
    """
    noise = -torch.empty(theta.shape).exponential_().log()
    return ((theta + noise.to(theta)) / temperature).softmax(-1)


def draw_branches(shares: Tensor, count: int) -> Draw:
    """``count`` draws, with replacement, of each layer's candidates by their shares (layers, candidates).

    Straight through: forward, a candidate drawn c times has the factor c / count and the others none;
    backward, the factor is c / count * share / (share as a constant). So the expected factor is the share,
    and the expected derivative by a share is that of the mixture of all candidates: dividing by the
    probability of a draw makes up for the candidates that did not run. Draws from torch's generator of the
    CPU.
    """
    fixed = shares.detach()
    drawn = torch.multinomial(fixed.float().cpu(), count, replacement=True)
    counts = torch.zeros(shares.shape).scatter_add_(1, drawn, torch.ones(drawn.shape))
    factors = shares * (counts.to(shares) / count / fixed.clamp_min(torch.finfo(fixed.dtype).tiny))
    return [
        [(index, factors[layer, index]) for index in sorted(set(indices))]
        for layer, indices in enumerate(drawn.tolist())
    ]


def search_loss(cross_entropy: Tensor, latency: Tensor, alpha: float, beta: float) -> Tensor:
    """cross_entropy * alpha * log(latency) ** beta, latency in microseconds and above 1 (Wu et al. 2018,
    arXiv 1812.03443, equation 2). Beta is an exponent outside the logarithm: inside, it would only scale.
    """
    return cross_entropy * alpha * latency.log() ** beta


_AT_ONCE = 4.0  # the power of latency / target that acts before beta has adapted; it keeps that from swinging


def adapted_beta(beta: float, latency: float, target: float, rate: float) -> float:
    """Beta after a step whose expected latency was ``latency``: more where that is above the target."""
    return float(min(max(beta * (latency / target) ** rate, 0.01), 30.0))


def pressure(beta: float, latency: float, target: float) -> float:
    """The exponent of a step that comes from an expected latency: beta, and more at once above the target."""
    return float(beta * (latency / target) ** _AT_ONCE)


def targeted_loss(cross_entropy: Tensor, latency: Tensor, exponent: float) -> Tensor:
    """A loss with the gradient of ``search_loss`` divided by alpha * log(latency) ** exponent.

    On the way to a target the exponent may grow so far that a few draws of a large latency would outweigh
    all others, or overflow; divided, they do not.
    """
    return cross_entropy + cross_entropy.detach() * exponent * latency.log().log()
