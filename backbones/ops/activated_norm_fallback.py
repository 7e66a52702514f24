"""Activated batch norm in PyTorch: the kernels of its operators where the extension does not serve."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_CHANNEL = (1, -1, 1, 1)


def statistics(input: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel, in float32 at least."""
    var, mean = torch.var_mean(input.to(wide(input)), (0, 2, 3), correction=0)
    return mean, var


def forward(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    activation: str,
    slope: float,
) -> Tensor:
    """The activation of the normalised input."""
    scale = away_from_zero(weight, eps)
    z = F.batch_norm(input.to(wide(input)), mean, var, scale, bias, False, 0.0, eps)
    y = activate_(z, activation, slope).to(input.dtype)
    return y.contiguous(memory_format=memory_format(input))


def sums(
    grad: Tensor, output: Tensor, weight: Tensor, bias: Tensor, eps: float, activation: str, slope: float
) -> Tensor:
    """The gradients of weight and bias, one above the other."""
    scale = away_from_zero(weight, eps)
    grad, z = _before_activation(grad, output, activation, slope)
    # z has mean ``bias`` and deviation ``scale``.
    statistics = (None, None, bias, scale.reciprocal(), True, eps)
    mask = [False, True, True]
    _, *found = torch.ops.aten.native_batch_norm_backward(grad, z, None, *statistics, mask)
    return torch.stack(found)


def backward(
    grad: Tensor,
    output: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    means: Tensor,
    eps: float,
    activation: str,
    slope: float,
) -> Tensor:
    """scale * rstd * (grad - mean of grad - normalised x * mean of grad * normalised x)."""
    scale, rstd = away_from_zero(weight, eps), (var + eps).rsqrt()
    grad, z = _before_activation(grad, output, activation, slope)
    tilt = -rstd * means[0]  # the normalised x is (z - bias) / scale
    grad_input = (z - bias.view(_CHANNEL)).mul_(tilt.view(_CHANNEL))
    grad_input.addcmul_(grad - means[1].view(_CHANNEL), (scale * rstd).view(_CHANNEL))
    return grad_input.to(output.dtype).contiguous(memory_format=memory_format(output))


def activate_(z: Tensor, activation: str, slope: float) -> Tensor:
    """The activation, in place."""
    if activation == "leaky_relu":
        return F.leaky_relu_(z, slope)
    return F.elu_(z) if activation == "elu" else z


def away_from_zero(weight: Tensor, eps: float) -> Tensor:
    """``weight`` with values nearer to 0 than ``eps`` moved there."""
    return torch.where(weight.abs() < eps, torch.where(weight < 0, -eps, eps).to(weight.dtype), weight)


def wide(input: Tensor) -> torch.dtype:
    """The type of statistics and parameters: float32, float64 beside an input of float64."""
    return torch.promote_types(input.dtype, torch.float32)


def memory_format(like: Tensor) -> torch.memory_format:
    """Contiguous or channels_last, whichever torch itself would give the result of an operator."""
    return torch._prims_common.suggest_memory_format(like)


def _before_activation(grad: Tensor, y: Tensor, activation: str, slope: float) -> tuple[Tensor, Tensor]:
    """The gradient before the activation and the values there, from those behind it."""
    lowest = torch.finfo(y.dtype).eps - 1
    grad, y = grad.to(wide(y)), y.to(wide(y))
    if activation == "leaky_relu":
        return torch.ops.aten.leaky_relu_backward(grad, y, slope, True), F.leaky_relu(y, 1 / slope)
    if activation == "elu":
        # Far left of zero, elu rounds to -1.
        z = torch.where(y > 0, y, y.clamp(min=lowest).log1p())
        return torch.ops.aten.elu_backward(grad, 1, 1, 1, True, y), z
    return grad, y
