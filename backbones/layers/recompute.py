"""Tensors that are computed again in the backward pass, where that costs little, instead of kept for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from backbones.ops.autocast import autocast_dtype
from registry import Config, ConfigError

RECOMPUTE_KEY = "MODEL.RECOMPUTE"
Recipe = Callable[..., Sequence[Tensor]]
_Hooks = tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]


def recompute_from_cfg(cfg: Config) -> bool:
    """Whether MODEL.RECOMPUTE is "cheap" rather than "none". Raises ConfigError for another word."""
    word = cfg.MODEL.RECOMPUTE
    if word not in ("cheap", "none"):
        raise ConfigError("use cheap or none", RECOMPUTE_KEY, cfg)
    return bool(word == "cheap")


def not_kept(tensors: Sequence[Tensor], recipe: Recipe, *inputs: Tensor) -> AbstractContextManager[object]:
    """Inside, autograd keeps none of ``tensors``: the backward pass makes them by ``recipe(*inputs)``.

    The recipe runs once for all of them, under the autocast of now, and each is let go when it was used. It
    must give what the operations inside see, in the same order and memory layout, change nothing, and draw no
    random numbers. ``inputs`` are kept, and must not change before the backward pass.

    Nothing happens without autograd, and in code that torch compiles or exports: compilers decide themselves.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not torch.is_grad_enabled():
        return nullcontext()
    if not any(tensor.requires_grad for tensor in tensors):
        return nullcontext()
    return _NotKept(tensors, recipe, inputs)


def watched(*modules: nn.Module) -> bool:
    """Whether hooks are on one of ``modules``: they would see a second run that they do not expect."""
    return _has_any_global_hook() or any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        for module in modules
    )


class _NotKept:
    """The hooks on what autograd saves inside. All other tensors go to the hooks around, where there are any:
    those of activation checkpointing, of offloading, of a count.
    """

    def __init__(self, tensors: Sequence[Tensor], recipe: Recipe, inputs: Sequence[Tensor]) -> None:
        self._tensors = tensors  # alive until __exit__, so that no other tensor gets their memory
        self._index = {_memory(tensor): i for i, tensor in enumerate(tensors)}
        self._around: _Hooks | None = torch._C._autograd._top_saved_tensors_default_hooks(False)
        self._recipe = recipe
        self._inputs = [self._keep(tensor) for tensor in inputs]
        self._autocast = _autocast_of_now(tensors[0].device.type)
        self._uses: list[int] = []  # of each tensor saved: which of the tensors it is a view of
        self._made: dict[int, Tensor] = {}  # by use, until it is asked for

    def __enter__(self) -> None:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack)
        self._hooks.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self._hooks.__exit__(*exception)
        del self._hooks, self._tensors  # what lives on holds no tensor but the inputs, and is in no cycle

    def _pack(self, tensor: Tensor) -> Callable[[], Tensor]:
        index = self._index.get(_memory(tensor))
        if index is None:
            return self._keep(tensor)
        self._uses.append(index)
        view = tensor.size(), tensor.stride(), tensor.storage_offset()
        return partial(self._make, len(self._uses) - 1, view)

    def _keep(self, tensor: Tensor) -> Callable[[], Tensor]:
        if self._around is None:
            return partial(_unchanged, tensor, tensor._version)
        pack, unpack = self._around
        return partial(unpack, pack(tensor))

    def _make(self, use: int, view: tuple[Any, ...]) -> Tensor:
        if use not in self._made:
            made = self._run()
            self._made = {other: made[index] for other, index in enumerate(self._uses)}
        return self._made.pop(use).as_strided(*view)

    def _run(self) -> list[Tensor]:
        with torch.enable_grad(), self._autocast:  # as in the forward pass, so that the same code runs
            return [each.detach() for each in self._recipe(*map(_unpack, self._inputs))]


def _autocast_of_now(device: str) -> AbstractContextManager[object]:
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    dtype = autocast_dtype(device)
    return torch.autocast(device, dtype, enabled=dtype is not None)


def _unpack(kept: Callable[[], Tensor]) -> Tensor:
    return kept()


def _unchanged(tensor: Tensor, version: int) -> Tensor:
    if tensor._version != version:
        raise RuntimeError(
            "a tensor that the backward pass needs was changed in place after the forward pass; change a copy"
        )
    return tensor


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # its address, which tensors without data have, too
