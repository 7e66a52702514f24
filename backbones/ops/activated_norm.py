"""Batch norm and activation in one: only the output is kept for the backward pass (Rota Bulo et al. 2018).

In-Place Activated BatchNorm, arXiv 1712.02616, section 3: the activation and the affine map can be undone,
so that the normalised input, which the backward pass needs, is computed from the output, which the next
convolution keeps anyway.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

import backbones.ops.activated_norm_registrations  # noqa: F401  (declares the operators)
from backbones.ops.activated_norm_fallback import wide
from backbones.ops.checks import check_devices
from registry import ConvbodyError

#: Activations that can be undone. ``slope`` is that of leaky_relu left of zero; the others have none.
ACTIVATIONS = ("leaky_relu", "elu", "identity")

_ops = torch.ops.convbody


def activated_batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, activation: str, slope: float, sync: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """``activation((x - mean) / sqrt(var + eps) * weight + bias)`` with the statistics of the batch.

    A weight nearer to 0 than ``eps`` counts as ``eps`` with its sign (0 as positive): a scale of 0 cannot be
    undone. Gradients of first order only. The output must not be changed in place.

    Args:
        x: (N, C, H, W), float64, float32, float16 or bfloat16; half types are computed in float32.
        weight, bias: (C,), floating point.
        eps: added to the variance.
        activation: one of ACTIVATIONS.
        slope: of leaky_relu left of zero, positive.
        sync: the batch is that of all processes, which must all call this, also with an empty x; gradients
            of weight and bias are those of this process, as data-parallel training averages them.

    Returns:
        The output, like x, and mean and unbiased variance of the batch, (C,), float32, or float64 as x,
        without gradient; NaN where no process has a value.

    Raises:
        ConvbodyError: fewer than two values per channel, without ``sync``.
        ArgumentError: tensors on different devices.
    """
    check_devices("activated_norm", input=x, weight=weight, bias=bias)
    if not sync:
        require_statistics(x)
    parameters = weight.to(wide(x)), bias.to(wide(x))
    out: tuple[Tensor, Tensor, Tensor] = _ActivatedBatchNorm.apply(
        x, *parameters, eps, activation, slope, sync
    )
    return out


def require_statistics(x: Tensor) -> None:
    """Raises ConvbodyError unless ``x`` has two values per channel, the fewest that have a variance."""
    if x.numel() < 2 * x.shape[1]:
        raise ConvbodyError(
            "activated batch norm needs at least two values per channel in training, got a batch of shape "
            f"{tuple(x.shape)}; use larger images or batches, or evaluation mode"
        )


class _ActivatedBatchNorm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        activation: str,
        slope: float,
        sync: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = _ops.activated_norm_statistics(x)
        own_count = x.numel() // x.shape[1]
        count: Tensor | int = own_count
        if sync:
            mean, var, count = _statistics_of_all(mean, var, own_count)
        y = _ops.activated_norm(x, mean, var, weight, bias, eps, activation, slope)
        ctx.save_for_backward(y, weight, bias, var)
        ctx.options, ctx.sync = (eps, activation, slope), sync
        unbiased = var * (count / (count - 1))
        ctx.mark_non_differentiable(mean, unbiased)
        return y, mean, unbiased

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        y, weight, bias, var = ctx.saved_tensors
        sums = _ops.activated_norm_sums(grad, y, weight, bias, *ctx.options)
        means = _means_of_all(sums, y) if ctx.sync else sums / (y.numel() // y.shape[1])
        grad_x = _ops.activated_norm_backward(grad, y, var, weight, bias, means, *ctx.options)
        return grad_x, *sums, None, None, None, None


def _statistics_of_all(mean: Tensor, var: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and number of values per channel over all processes (Chan et al. 1979)."""
    own = torch.cat((mean, var, mean.new_full((1,), count)))
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    means, variances, counts = torch.stack(parts).split((len(mean), len(mean), 1), dim=1)
    means, variances = (torch.where(counts > 0, part, 0) for part in (means, variances))
    shares = counts / counts.sum()
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0), counts.sum()


def _means_of_all(sums: Tensor, y: Tensor) -> Tensor:
    """``sums`` over all processes by the number of values per channel in all of them."""
    total = torch.cat((sums.flatten(), sums.new_full((1,), y.numel() // y.shape[1])))
    dist.all_reduce(total)
    return (total[:-1] / total[-1]).view_as(sums)
