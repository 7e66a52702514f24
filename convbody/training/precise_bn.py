"""Precise batch-norm statistics for an evaluation (Wu and Johnson 2021, arXiv 2105.07576, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from convbody.training import distributed


@contextmanager
def precise_statistics(
    model: nn.Module, forward: Callable[[nn.Module, Any], Any], batches: Iterable[Any], count: int
) -> Iterator[None]:
    """While entered, the running statistics of ``model`` are those of ``count`` batches under its weights.

    Afterwards they are again what they were, so that an evaluation leaves no trace in the training. The model
    is in evaluation mode inside and after. ``forward`` is called with it and every batch; each process
    computes on batches of its own, and rank 0's statistics count.
    """
    from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats  # slow to import

    model.train()
    norms = get_bn_modules(model)
    kept = [{name: (buffer, buffer.clone()) for name, buffer in norm.named_buffers()} for norm in norms]
    try:
        update_bn_stats(_Forward(model, forward), batches, count)
        distributed.broadcast_buffers(model)
        model.eval()
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            _restore(norm, buffers)
        model.eval()


class _Forward(nn.Module):
    """A model and a function of it and a batch as one module that takes the batch."""

    def __init__(self, model: nn.Module, function: Callable[[nn.Module, Any], Any]) -> None:
        super().__init__()
        self.model, self._function = model, function

    def forward(self, batch: Any) -> Any:
        return self._function(self.model, batch)


@torch.no_grad()
def _restore(norm: nn.Module, buffers: dict[str, tuple[Tensor, Tensor]]) -> None:
    for name, (buffer, value) in buffers.items():
        buffer.copy_(value)
        setattr(norm, name, buffer)  # others were put in its place
