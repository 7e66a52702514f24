"""Which image sizes a timm model takes, asked on the meta device, where a forward pass computes nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import nn

Size = tuple[int, int]  # height, width


class TimmSizes:
    """The sizes that one timm model takes.

    Args:
        create: builds the model with these further arguments of ``timm.create_model``; called on the meta
            device.
        own: the size that the model was made for.
        multiple: pixels; sides that are multiples of it suit every stride.
    """

    def __init__(self, create: Callable[..., nn.Module], own: Size, multiple: int) -> None:
        self._create = create
        self.own = own
        self._multiple = multiple
        self._known: dict[Size, bool] = {}
        # Found out now: a forward pass may be traced, or measured.
        other = (3 * multiple, 5 * multiple)
        #: Whether only some sizes are taken, the model's own among them.
        self.fixed = self.takes(own) and not self.takes(other)

    def takes(self, size: Size) -> bool:
        """Whether images of this size run through the model."""
        if size not in self._known:
            self._known[size] = _runs(self._net, size)
        return self._known[size]

    def padded(self, size: Size) -> Size | None:
        """The size to pad images to: a multiple where the model takes that, else its own; None: too large."""
        height, width = size
        multiple = (height + -height % self._multiple, width + -width % self._multiple)
        if not self.fixed or self.takes(multiple):
            return multiple
        return self.own if height <= self.own[0] and width <= self.own[1] else None

    def advice(self, size: Size) -> str:
        """What to set so that images of this size run."""
        height, width = (side + -side % self._multiple for side in size)
        side = max(height, width)
        for candidate in ((height, width), (side, side)):
            try:
                with _on_meta():
                    net = self._create(img_size=candidate)
            except (TypeError, ValueError, RuntimeError, AssertionError):
                continue
            if _runs(net, candidate):
                return f"set MODEL.TIMM.KWARGS.img_size to {list(candidate)}"
        return "no other size can be set: make images smaller (INPUT.MAX_SIZE_TRAIN and MAX_SIZE_TEST)"

    @cached_property
    def _net(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]), _on_meta():
            return self._create()


def _on_meta() -> Any:
    return torch.device("meta")


@torch.no_grad()
def _runs(net: nn.Module, size: Size) -> bool:
    try:
        net.eval()(torch.empty(1, 3, *size, device="meta"))
    except Exception:  # models check sizes in any way, and torch's meta kernels raise what they like
        return False
    return True
