"""Building a network without drawing the random numbers that a weight file is about to overwrite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_INIT_FILLS = {nn.init.uniform_, nn.init.normal_, nn.init.constant_, nn.init.kaiming_uniform_}
#: What these overwrite may wait, and what waited for the same tensor before is void.
_FILLS = _INIT_FILLS | {Tensor.uniform_, Tensor.normal_, Tensor.fill_, Tensor.zero_}
#: In-place steps that may wait behind a fill: a truncated normal is made of them.
_UPDATES = {Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.sub_, Tensor.div_, Tensor.clamp_}
#: Neither values nor, ``detach`` apart, other tensors on the same memory come of these.
_HARMLESS = {
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.stride, Tensor.is_contiguous, Tensor.detach),
    *(Tensor.is_floating_point, Tensor.is_complex, Tensor.element_size, Tensor.requires_grad_),
    *(
        getattr(Tensor, name).__get__
        for name in (
            *("shape", "ndim", "dtype", "device", "layout", "requires_grad", "grad", "grad_fn", "is_leaf"),
            *("is_meta", "is_cuda", "is_cpu", "is_quantized", "is_sparse", "is_nested"),
        )
    ),
    getattr(Tensor, "requires_grad").__set__,  # noqa: B009
}


@contextmanager
def deferred_init() -> Iterator[None]:
    """Within it the initialisation of parameters waits, and is left out for those that are copied over.

    To build a network and load its weights: ``with deferred_init(): model = ...; load_weights(model, ...)``.
    A parameter is initialised when anything else reads or changes it, and at the latest at the end, also when
    loading fails. It then holds what it would hold without this, but that the random numbers are others.
    """
    waiting = _Waiting()
    try:
        with waiting:
            yield
    finally:
        waiting.finish()


class _Waiting(TorchFunctionMode):
    """The calls that parameters wait for, by address: other tensors on the same memory are known by it."""

    def __init__(self) -> None:
        super().__init__()
        # The parameter is held, so that no other tensor gets its memory meanwhile.
        self._calls: dict[int, tuple[nn.Parameter, list[Callable[[], Any]]]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _HARMLESS:
            return func(*args, **kwargs)
        target: Any = args[0] if args else kwargs.get("tensor")
        if func in _FILLS or func in _UPDATES:
            if isinstance(target, nn.Parameter) and self._may_wait(func, target, args[1:]):
                earlier = [] if func in _FILLS else self._calls[target.data_ptr()][1]
                self._calls[target.data_ptr()] = (target, [*earlier, partial(func, *args, **kwargs)])
                return target
        elif func is Tensor.copy_ and self._covers(target):
            self._run((args[1:], kwargs))
            result = func(*args, **kwargs)
            del self._calls[target.data_ptr()]
            return result
        self._run((args, kwargs))
        return func(*args, **kwargs)

    def finish(self) -> None:
        """Initialises what still waits."""
        self._run([parameter for parameter, _ in self._calls.values()])

    def _may_wait(self, func: Any, target: nn.Parameter, others: tuple[Any, ...]) -> bool:
        if torch.is_grad_enabled() and target.requires_grad and func not in _INIT_FILLS:
            return False  # torch refuses this call
        if not target.data_ptr() or next(_tensors(others), None) is not None:
            return False
        held = self._calls.get(target.data_ptr())
        return held[0] is target if held else func in _FILLS

    def _covers(self, target: Tensor) -> bool:
        held = self._calls.get(target.data_ptr())
        return held is not None and held[0].numel() == target.numel()

    def _run(self, values: Any) -> None:
        if self._calls:
            for tensor in _tensors(values):
                _, calls = self._calls.pop(tensor.data_ptr(), (None, []))
                with torch.no_grad():
                    for call in calls:
                        call()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
