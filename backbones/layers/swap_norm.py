"""Replacing the batch norms of a finished network, weights kept."""

from __future__ import annotations

from torch import Tensor, nn

from backbones.layers.norm import NormFactory


def swap_batch_norms(module: nn.Module, norm: NormFactory) -> None:
    """Replace every batch norm in ``module`` by ``norm(channels)``, in place, keeping names, weights and
    epsilon.

    A batch norm that also applies an activation (timm's BatchNormAct2d) keeps applying it.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, _replacement(child, norm))
        else:
            swap_batch_norms(child, norm)


def _replacement(old: nn.modules.batchnorm._BatchNorm, norm: NormFactory) -> nn.Module:
    new = norm(old.num_features)
    state = new.state_dict()
    state.update((key, value) for key, value in old.state_dict().items() if key in state)
    new.load_state_dict(state)
    if hasattr(new, "eps"):
        new.eps = old.eps  # type: ignore[assignment]
    if hasattr(old, "act"):
        new.drop, new.act = old.drop, old.act
        # A subclass, not a wrapper: the state-dict names stay those of the model.
        new.__class__ = type(f"{type(new).__name__}Act", (_ThenActivation, type(new)), {})
    return new


class _ThenActivation(nn.Module):
    """Mixed in before a norm: its output goes through ``drop`` and ``act``."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.drop(super().forward(x)))
        return out
