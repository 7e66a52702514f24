"""Activated batch norm (ABN): a batch norm that also applies the activation behind it, in less memory."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from backbones.layers.norm import SyncBatchNorm
from backbones.ops.activated_norm import ACTIVATIONS, activated_batch_norm, require_statistics
from backbones.ops.activated_norm_fallback import activate_
from registry import ConvbodyError


class ActivatedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm, then an activation; training keeps only the output (Rota Bulo et al. 2018).

    It has the parameters, the buffers and the numbers of batch norm and activation, so that weights move
    freely between the two. In training a weight nearer to 0 than ``eps`` acts as ``eps``, and the output must
    not be changed in place: that is an error of autograd. In evaluation it is a folded affine map and the
    activation, without anything that an exporter would not know.

    Args:
        num_features, eps, momentum: as of batch norm.
        activation: "leaky_relu", "elu" or "identity"; None is batch norm, which keeps its input, until
            ``activation`` is set by the block that knows what follows.
        slope: of leaky_relu left of zero, positive.

    Raises:
        ConvbodyError: another activation, or a slope that is not positive; in training, fewer than two
            values per channel.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float
    _sync = False

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        activation: str | None = None,
        slope: float = 0.01,
    ) -> None:
        super().__init__(num_features, eps, momentum)
        self.set_activation(activation, slope)

    def set_activation(self, activation: str | None, slope: float = 0.01) -> None:
        """What follows the norm."""
        if activation is not None and activation not in ACTIVATIONS:
            raise ConvbodyError(f"activated batch norm has {', '.join(ACTIVATIONS)}; not {activation!r}")
        if slope <= 0:
            raise ConvbodyError(f"activated batch norm needs a positive slope, not {slope}")
        self.activation, self.slope = activation, slope

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape, dtype and memory format."""
        if not self.training:
            return self._folded(x)
        sync = self._sync and dist.is_available() and dist.is_initialized()
        if not sync and x.numel() == 0:  # regions of no image: batch norm leaves the statistics as they are
            return super().forward(x)
        if self.activation is None:
            require_statistics(x)
            return super().forward(x)
        y, mean, var = activated_batch_norm(
            x, self.weight, self.bias, self.eps, self.activation, self.slope, sync
        )
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            for running, new in ((self.running_mean, mean), (self.running_var, var)):
                # Where no process has a value, statistics are NaN.
                running.lerp_(torch.where(new.isnan(), running, new.to(running.dtype)), self.momentum)
        return y

    def _folded(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        z = torch.addcmul(shift[:, None, None], x, scale[:, None, None]).to(x.dtype)
        return z if self.activation is None else activate_(z, self.activation, self.slope)

    def extra_repr(self) -> str:
        """What repr() shows."""
        slope = f"({self.slope})" if self.activation == "leaky_relu" else ""
        return f"{super().extra_repr()}, activation={self.activation}{slope}"


class SyncActivatedBatchNorm2d(ActivatedBatchNorm2d, SyncBatchNorm):
    """Activated batch norm whose batch is that of all processes; in a single process the plain one."""

    _sync = True


def fuse_activation(norm: nn.Module, activation: str, slope: float = 0.01) -> bool:
    """Lets ``norm`` apply the activation, if it is one that can; whether it does."""
    if not isinstance(norm, ActivatedBatchNorm2d):
        return False
    norm.set_activation(activation, slope)
    return True
