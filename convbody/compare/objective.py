"""From a model and a batch to a loss: the same function on both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convbody.compare.record import Batch
from registry import ConvbodyError


@dataclass(frozen=True)
class Outcome:
    """What a forward pass gives: named outputs, and the named terms whose sum is the loss."""

    outputs: dict[str, Tensor]
    losses: dict[str, Tensor]


Objective = Callable[[nn.Module, Batch], Outcome]


@dataclass(frozen=True)
class Projection:
    """The loss of feature maps: sum over maps f of sum_j sin(j + 1) f_j / sqrt(number of elements of f).

    j counts the elements from 0 in row-major (N, C, H, W) order; the sine is taken in float64 and rounded to
    the precision of the features. ``taps`` are the modules whose outputs are the feature maps; without them,
    they are what the model gives.
    """

    taps: tuple[str, ...] = ()

    def __call__(self, model: nn.Module, batch: Batch) -> Outcome:
        """Features and loss of a batch."""
        features = tapped(model, batch, self.taps) if self.taps else tensors_of(model(batch["images"]))
        losses = {f"feature {index}": _projected(feature) for index, feature in enumerate(features)}
        return Outcome({f"feature {index}": feature for index, feature in enumerate(features)}, losses)


def cross_entropy(model: nn.Module, batch: Batch) -> Outcome:
    """Of logits (N, classes) with the "targets" (N, classes) of the batch; mean over images.

    Without targets image i is of class i modulo the number of classes.
    """
    (logits,) = tensors_of(model(batch["images"]))
    targets = batch.get("targets", torch.arange(len(logits)) % logits.shape[1])
    if targets.dim() == 2 and targets.shape != logits.shape:
        raise ConvbodyError(f"targets are of {targets.shape[1]} classes, logits of {logits.shape[1]}")
    return Outcome({"logits": logits}, {"cross entropy": F.cross_entropy(logits, targets)})


def detector_losses(model: nn.Module, batch: Batch) -> Outcome:
    """The losses of a detector with torchvision's calling convention, as the model itself names them."""
    images = list(batch["images"])
    targets: list[dict[str, Tensor]] = [{} for _ in images]
    for name, tensor in batch.items():
        if name.startswith("targets."):
            _, index, key = name.split(".")
            targets[int(index)][key] = tensor
    return Outcome({}, model(images, targets))


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors of a model's output: itself, or those of a list, a tuple or a dict.

    Raises ConvbodyError for an output of another kind.
    """
    if isinstance(output, Tensor):
        return [output]
    values = list(output.values()) if isinstance(output, Mapping) else output
    if not isinstance(values, Sequence) or not all(isinstance(value, Tensor) for value in values):
        raise ConvbodyError(
            f"a model has to give a tensor, or a list or dict of tensors, not a {type(output).__name__}"
        )
    return list(values)


def tapped(model: nn.Module, batch: Batch, taps: Sequence[str]) -> list[Tensor]:
    """What the modules called ``taps`` give in a forward pass."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            found[name] = output

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in taps]
    try:
        model(batch["images"])
    finally:
        for handle in handles:
            handle.remove()
    return [found[name] for name in taps]


def _projected(feature: Tensor) -> Tensor:
    directions = torch.arange(1, feature.numel() + 1, dtype=torch.float64).sin()
    return feature.flatten() @ directions.to(feature.dtype) / feature.numel() ** 0.5
