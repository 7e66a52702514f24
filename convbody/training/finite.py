"""Weights that have diverged are named before anything is made of them."""

from __future__ import annotations

import torch
from torch import nn

from convbody.training import distributed, parallel
from registry import ConvbodyError


def first_nonfinite(model: nn.Module) -> str | None:
    """The name of the first parameter with a NaN or an infinity, or else of the first buffer with a NaN.

    A buffer may be infinite by design, such as the mask of an attention. Called on all ranks; all get the
    same name.
    """
    return next(filter(None, distributed.all_gather_object(_first_here(model))), None)


def require_finite(model: nn.Module) -> None:
    """Raises ConvbodyError where the weights of ``model`` have diverged: it would find nothing, silently.

    Called on all ranks, which all raise alike.
    """
    if culprit := first_nonfinite(model):
        raise ConvbodyError(
            f"the weights have diverged: {culprit} holds NaN or infinity, so that nothing can be predicted; "
            "take an earlier checkpoint, and train with a lower SOLVER.BASE_LR or with "
            "SOLVER.CLIP_GRADIENTS.ENABLED True"
        )


def _first_here(model: nn.Module) -> str | None:
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parallel.local(parameter)).all()):
            return name
    for name, buffer in model.named_buffers():
        if bool(torch.isnan(parallel.local(buffer)).any()):
            return name
    return None
