"""Normalisation layers, and how the config picks and parametrises one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from registry import NORMS, Config, ConfigError

#: Makes the norm for a number of channels.
NormFactory = Callable[[int], nn.Module]


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and fixed affine map: all four are buffers.

    y = (x - running_mean) * weight / sqrt(running_var + eps) + bias, computed in float32, or in the buffers'
    dtype where that is float64, and given in the dtype of x. The published detection models add no epsilon,
    hence the default.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 0.0) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        scale, shift = _affine(self, self.weight, self.bias)
        return (x * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    def extra_repr(self) -> str:
        """What repr() shows."""
        return f"{self.weight.numel()}, eps={self.eps}"


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm whose batch is that of all processes.

    On GPUs it is torch's fused SyncBatchNorm. On CPUs, where torch has none, mean and variance are reduced
    with differentiable collectives. In a single process it is plain batch norm.
    """

    process_group = None
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        if not (self.training and dist.is_available() and dist.is_initialized()):
            return super().forward(x)
        if x.is_cuda:
            return nn.SyncBatchNorm.forward(self, x)  # type: ignore[arg-type]
        channels = (1, -1, 1, 1)
        count = all_reduce(x.new_tensor(x.numel() / x.size(1)))
        if not count:  # no process has a value: batch norm leaves the statistics as they are
            return super().forward(x)
        mean = all_reduce(x.sum((0, 2, 3))) / count
        centred = x - mean.view(channels)
        var = all_reduce(centred.square().sum((0, 2, 3))) / count
        self._update_statistics(mean.detach(), var.detach() * count / (count - 1).clamp(min=1))
        scale = self.weight * (var + self.eps).rsqrt()
        return centred * scale.view(channels) + self.bias.view(channels)

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, unbiased_var: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_var, self.momentum)


def frozen_affine(norm: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Scale and shift, each (C,), that ``norm`` now is; None where it moves, learns, or is no batch norm.

    They are float32, or float64 where the norm is.
    """
    if type(norm) is FrozenBatchNorm2d:
        return _affine(norm, norm.weight, norm.bias)
    if type(norm) not in (nn.BatchNorm2d, SyncBatchNorm) or norm.training:
        return None
    assert isinstance(norm, nn.BatchNorm2d)
    if norm.weight is None or norm.running_mean is None:
        return None
    if torch.is_grad_enabled() and (norm.weight.requires_grad or norm.bias.requires_grad):
        return None
    return _affine(norm, norm.weight, norm.bias)


def _affine(norm: Any, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(weight.dtype, torch.float32)
    scale = weight.to(dtype) * (norm.running_var.to(dtype) + norm.eps).rsqrt()
    return scale, bias.to(dtype) - norm.running_mean.to(dtype) * scale


def batch_norm(channels: int, eps: float = 1e-5) -> nn.BatchNorm2d:
    """Batch norm over the batch of this process."""
    return nn.BatchNorm2d(channels, eps)


def group_norm(
    channels: int, num_groups: int = 32, channels_per_group: int = -1, eps: float = 1e-5
) -> nn.GroupNorm:
    """Group norm (Wu and He 2018) with a number of groups, or, when that is -1, of channels in each.

    Raises:
        ConfigError: the channels do not divide into the groups, or both or neither number is given.
    """
    if (num_groups > 0) == (channels_per_group > 0):
        raise ConfigError(
            "set one of MODEL.GROUP_NORM.NUM_GROUPS and MODEL.GROUP_NORM.DIM_PER_GP, the other to -1"
        )
    divisor = num_groups if num_groups > 0 else channels_per_group
    if channels % divisor:
        key = "NUM_GROUPS" if num_groups > 0 else "DIM_PER_GP"
        raise ConfigError(
            f"group norm: {channels} channels do not divide by {divisor} (MODEL.GROUP_NORM.{key}); "
            "choose a divisor of every width, e.g. NUM_GROUPS -1 and DIM_PER_GP 8"
        )
    return nn.GroupNorm(num_groups if num_groups > 0 else channels // divisor, channels, eps=eps)


def norm_from_cfg(cfg: Config, word: str) -> NormFactory:
    """The constructor that NORMS holds under ``word``, with the options that ``cfg`` has for it."""
    constructor: NormFactory = NORMS[word]
    options = _OPTIONS.get(word)
    return partial(constructor, **options(cfg)) if options else constructor


_OPTIONS: dict[str, Callable[[Config], dict[str, Any]]] = {
    "FrozenBN": lambda cfg: {"eps": cfg.MODEL.FROZEN_BN.EPSILON},
    "GN": lambda cfg: {
        "num_groups": cfg.MODEL.GROUP_NORM.NUM_GROUPS,
        "channels_per_group": cfg.MODEL.GROUP_NORM.DIM_PER_GP,
        "eps": cfg.MODEL.GROUP_NORM.EPSILON,
    },
}
