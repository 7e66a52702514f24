"""Batch norm and activation in one: only the output is kept for the backward pass (Rota Bulo et al. 2018).

In-Place Activated BatchNorm, arXiv 1712.02616, section 3: the activation and the affine map can be undone,
so that the normalised input, which the backward pass needs, is computed from the output, which the next
convolution keeps anyway.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from registry import ConvbodyError

#: Activations that can be undone. ``slope`` is that of leaky_relu left of zero; the others have none.
ACTIVATIONS = ("leaky_relu", "elu", "identity")

_CHANNEL = (1, -1, 1, 1)


def activated_batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, activation: str, slope: float, sync: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """``activation((x - mean) / sqrt(var + eps) * weight + bias)`` with the statistics of the batch.

    A weight nearer to 0 than ``eps`` counts as ``eps`` with its sign (0 as positive): a scale of 0 cannot be
    undone. Gradients of first order only. The output must not be changed in place.

    Args:
        x: (N, C, H, W), floating point.
        weight, bias: (C,), float32, or float64 when x is.
        eps: added to the variance.
        activation: one of ACTIVATIONS.
        slope: of leaky_relu left of zero, positive.
        sync: the batch is that of all processes, which must all call this; gradients of weight and bias
            are those of this process, as data-parallel training averages them.

    Returns:
        The output, like x, and mean and unbiased variance of the batch, (C,), without gradient.

    Raises:
        ConvbodyError: fewer than two values per channel in this process.
    """
    require_statistics(x)
    out: tuple[Tensor, Tensor, Tensor] = _ActivatedBatchNorm.apply(
        x, weight, bias, eps, activation, slope, sync
    )
    return out


def require_statistics(x: Tensor) -> None:
    """Raises ConvbodyError unless ``x`` has two values per channel, the fewest that have a variance."""
    if x.numel() < 2 * x.shape[1]:
        raise ConvbodyError(
            "activated batch norm needs at least two values per channel in training, got a batch of shape "
            f"{tuple(x.shape)}; use larger images or batches, or evaluation mode"
        )


def activate_(z: Tensor, activation: str, slope: float) -> Tensor:
    """The activation, in place."""
    if activation == "leaky_relu":
        return F.leaky_relu_(z, slope)
    return F.elu_(z) if activation == "elu" else z


def undo_activation(y: Tensor, activation: str, slope: float) -> Tensor:
    """The input that the activation made ``y`` of."""
    if activation == "leaky_relu":
        return F.leaky_relu(y, 1 / slope)
    if activation == "elu":
        # Far left of zero, elu rounds to -1.
        return torch.where(y > 0, y, y.clamp(min=torch.finfo(y.dtype).eps - 1).log1p())
    return y


def activation_gradient(grad: Tensor, y: Tensor, activation: str, slope: float) -> Tensor:
    """The gradient before the activation, from the one behind it and the output ``y``."""
    if activation == "leaky_relu":
        return torch.ops.aten.leaky_relu_backward(grad, y, slope, True)
    return torch.ops.aten.elu_backward(grad, 1, 1, 1, True, y) if activation == "elu" else grad


def away_from_zero(weight: Tensor, eps: float) -> Tensor:
    """``weight`` with values nearer to 0 than ``eps`` moved there."""
    return torch.where(weight.abs() < eps, torch.where(weight < 0, -eps, eps).to(weight.dtype), weight)


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
        scale = away_from_zero(weight, eps)
        count: Tensor | int = x.numel() // x.shape[1]
        if sync:
            mean, var, count = _statistics_of_all(x)
            rstd = (var + eps).rsqrt()
            z = F.batch_norm(x, mean, var, scale, bias, False, 0.0, eps)
        else:
            z, mean, rstd = torch.native_batch_norm(x, scale, bias, None, None, True, 0.0, eps)
            var = rstd.pow(-2) - eps
        var = var * (count / (count - 1))
        y = activate_(z, activation, slope)
        ctx.save_for_backward(y, scale, bias, rstd)
        ctx.eps, ctx.activation, ctx.slope, ctx.sync = eps, activation, slope, sync
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        y, scale, bias, rstd = ctx.saved_tensors
        z = undo_activation(y, ctx.activation, ctx.slope)
        grad = activation_gradient(grad, y, ctx.activation, ctx.slope)
        # z has mean ``bias`` and deviation ``scale``: with these the gradient of batch norm at z is that at x
        # but for the factor scale * rstd.
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad,
            z,
            scale * scale * rstd,
            None,
            None,
            bias,
            scale.reciprocal(),
            True,
            ctx.eps,
            [not ctx.sync, True, True],
        )
        if ctx.sync:
            grad_x = _gradient_of_all(grad, z, scale, bias, rstd, grad_weight, grad_bias)
        return grad_x, grad_weight, grad_bias, None, None, None, None


def _statistics_of_all(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and number of values per channel over all processes (Chan et al. 1979)."""
    own_var, own_mean = torch.var_mean(x if x.dtype == torch.float64 else x.float(), (0, 2, 3), correction=0)
    count = own_mean.new_full((1,), x.numel() // x.shape[1])
    parts = [torch.empty_like(torch.cat((own_mean, own_var, count))) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, torch.cat((own_mean, own_var, count)))
    means, variances, counts = torch.stack(parts).split((x.shape[1], x.shape[1], 1), dim=1)
    shares = counts / counts.sum()
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0), counts.sum()


def _gradient_of_all(
    grad: Tensor, z: Tensor, scale: Tensor, bias: Tensor, rstd: Tensor, grad_weight: Tensor, grad_bias: Tensor
) -> Tensor:
    """scale * rstd * (grad - mean of grad - normalised x * mean of grad * normalised x), means over all."""
    count = grad_bias.new_full((1,), grad.numel() // grad.shape[1])
    sums = torch.cat((grad_weight, grad_bias, count))
    dist.all_reduce(sums)
    mean_weight, mean_bias = (sums[:-1] / sums[-1]).chunk(2)
    slope = -rstd * mean_weight  # of grad_x along z: scale * rstd * mean_weight / scale
    shift = -scale * rstd * mean_bias - slope * bias
    grad_x = torch.addcmul(shift.view(_CHANNEL), z, slope.view(_CHANNEL))
    return torch.addcmul(grad_x, grad, (scale * rstd).view(_CHANNEL)).to(grad.dtype)
