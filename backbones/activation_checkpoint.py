"""Activation checkpointing: activations of whole stages are computed again when needed, instead of kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from backbones.spec import Backbone
from registry import Config, ConfigError

CHECKPOINT_KEY = "MODEL.BACKBONE.CHECKPOINT_STAGES"
ALL = "all"


def checkpoint_stages(backbone: Backbone, names: Sequence[str], cfg: Config | None = None) -> None:
    """Lets the stages called ``names``, or every stage for ("all",), keep only their blocks' inputs.

    In the backward pass a block's forward pass is repeated with the same random numbers, and without moving
    its running statistics a second time, so that gradients, buffers and the state dict are as without
    (Chen et al. 2016, arXiv 1604.06174). Frozen stages keep nothing anyway and are left as they are. ``cfg``
    only tells the error where ``names`` was set.

    Raises:
        ConfigError: there is no stage of such a name.
    """
    stages = backbone.stages()
    there = [name for name, _ in stages]
    for name in names:
        if name not in (*there, ALL):
            raise ConfigError(f"no stage {name!r}; use {', '.join(there)} or {ALL}", CHECKPOINT_KEY, cfg)
    for name, modules in stages[backbone.frozen_stages :]:
        if name in names or ALL in names:
            for block in filter(_has_layers, _blocks(modules)):
                block.forward = MethodType(forward, block)
                if hasattr(block, "recompute"):
                    # The block is computed again as a whole.
                    block.recompute = False  # type: ignore[assignment]


def _blocks(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """``modules``, with lists, which are never called, and rows of blocks resolved into what is in them."""
    for module in modules:
        inner = list(module.children())
        is_row = isinstance(module, nn.Sequential) and all(map(_has_layers, inner))
        if is_row or type(module).forward is nn.Module.forward:
            yield from _blocks(inner)
        else:
            yield module


def _has_layers(block: nn.Module) -> bool:
    """Whether there is something to gain: a single layer keeps its input, too, or overwrites it."""
    return any(True for _ in block.children())


def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The forward pass of a block that is to be repeated; it takes the place of ``self.forward``.

    A bound method rather than a closure: a deep copy of the block, such as an average of weights, is its own.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        # Lists are copied, because a block that replaces their elements would not find its inputs again.
        own = (list(arg) if isinstance(arg, list) else arg for arg in args)
        return type(self).forward(self, *own, **kwargs)

    if not torch.is_grad_enabled():
        return call(*args, **kwargs)
    if torch.compiler.is_compiling():  # compiled code writes buffers once, whatever it computes again
        return checkpoint(call, *args, use_reentrant=False, **kwargs)
    contexts = partial(_contexts, self)
    return checkpoint(call, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _contexts(block: nn.Module) -> tuple[nullcontext[None], Any]:
    return nullcontext(), _copied_buffers(block)


@contextmanager
def _copied_buffers(block: nn.Module) -> Iterator[None]:
    """The block computes on copies of its buffers: what it writes into them, running statistics, is lost."""
    places = [
        (module._buffers, name, buffer)
        for module in block.modules()
        if module.training
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    for buffers, name, buffer in places:
        buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for buffers, name, buffer in places:
            buffers[name] = buffer
