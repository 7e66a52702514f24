"""``compare_sides``, ``compare_with_trace``: one set of weights, one batch, and a loss for both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convbody.compare.names import Pairing, pair
from convbody.compare.objective import Objective, Projection, cross_entropy, detector_losses, tensors_of
from convbody.compare.observe import Side, floating, observe
from convbody.compare.record import Batch, Record
from convbody.compare.verdict import Comparison, compare
from registry import ConvbodyError
from registry.errors import in_one_line


@dataclass(frozen=True)
class Loss:
    """The loss of both sides: its kind, as a record names it, and the function for either model."""

    kind: str
    first: Objective
    second: Objective


def compare_sides(
    first: Side, second: Side, batch: Batch, *, steps: int = 1, seed: int = 0, carry: bool = True
) -> Comparison:
    """Both models through ``steps`` steps; with ``carry``, ``second`` gets the weights of ``first`` before.

    Raises:
        ConvbodyError: no tensors in common, other shapes, or outputs that no loss can be made of.
    """
    pairing = pair(floating(first.model), floating(second.model))
    if carry:
        carry_over(floating(first.model), second.model, pairing.tensors)
    loss = choose_loss(first.model, second.model, batch, pairing)
    records = [
        observe(side, objective, batch, loss=loss.kind, steps=steps, seed=seed)
        for side, objective in ((first, loss.first), (second, loss.second))
    ]
    return compare(records[0], records[1], pairing)


def compare_with_trace(first: Side, trace: Record, *, seed: int = 0) -> Comparison:
    """``first``, with the weights and on the batch of the trace, through as many steps, against it.

    Raises:
        ConvbodyError: no tensors in common, other shapes, or a loss of another kind.
    """
    pairing = pair(floating(first.model), trace.weights)
    carry_over(trace.weights, first.model, {b: a for a, b in pairing.tensors.items()})
    loss = choose_loss(first.model, None, trace.batch, pairing)
    if loss.kind != trace.loss:
        raise ConvbodyError(f"the loss is {loss.kind!r} here and {trace.loss!r} in the {trace.label}")
    steps = max(1, trace.steps)
    record = observe(first, loss.first, trace.batch, loss=loss.kind, steps=steps, seed=seed)
    return compare(record, trace, pairing)


def record_side(side: Side, batch: Batch, *, steps: int = 1, seed: int = 0) -> Record:
    """What is seen of one side alone, for a trace."""
    loss = choose_loss(side.model, None, batch, Pairing({}, {}, (), ()))
    return observe(side, loss.first, batch, loss=loss.kind, steps=steps, seed=seed)


@torch.no_grad()
def carry_over(source: Mapping[str, Tensor], target: nn.Module, names: Mapping[str, str]) -> None:
    """Writes tensors of ``source`` into ``target``; ``names`` are source -> target."""
    state = target.state_dict()
    for name, other in names.items():
        state[other].copy_(source[name])


@torch.no_grad()
def enliven_norms(model: nn.Module, seed: int) -> None:
    """Random scales, shifts and statistics for every norm: fresh ones hide mistakes, as x * 1 + 0 is x.

    A norm is what owns one-dimensional ``weight`` and ``bias``. Scales and variances are uniform in
    [0.5, 1.5], shifts and means normal with standard deviation 0.1.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        own = module.state_dict(keep_vars=True)
        if any(name not in own or own[name].dim() != 1 for name in ("weight", "bias")):
            continue
        for name, tensor in own.items():
            if name in ("weight", "running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif name in ("bias", "running_mean"):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)


def choose_loss(first: nn.Module, second: nn.Module | None, batch: Batch, pairing: Pairing) -> Loss:
    """Detectors have losses of their own, logits cross-entropy, and feature maps their projection.

    Where ``second`` gives something else than the feature maps of ``first``, they are taken from the modules
    that are paired with those that make them.

    Raises:
        ConvbodyError: a model does not run on the batch, or its outputs do not fit.
    """
    if any(name.startswith("targets.") for name in batch):
        return Loss("detector", detector_losses, detector_losses)
    wanted, makers = _probe(first, batch)
    logits = len(wanted) == 1 and wanted[0].dim() == 2
    kind, objective = ("cross entropy", cross_entropy) if logits else ("projection", Projection())
    if second is None:
        return Loss(kind, objective, objective)
    given = _probe(second, batch)[0]
    if [each.shape[:2] for each in given] == [each.shape[:2] for each in wanted]:
        return Loss(kind, objective, objective)
    taps = [pairing.modules.get(maker, "") if maker else "" for maker in makers]
    if logits or not all(taps):
        shapes = [[tuple(each.shape) for each in side] for side in (wanted, given)]
        raise ConvbodyError(f"no loss for both sides: the outputs are {shapes[0]} here, {shapes[1]} there")
    return Loss(kind, objective, Projection(tuple(taps)))


@torch.no_grad()
def _probe(model: nn.Module, batch: Batch) -> tuple[list[Tensor], list[str]]:
    """The outputs of a model, and for each the innermost module that gave it, or ""."""
    given: list[tuple[str, Any]] = []
    handles = [
        module.register_forward_hook(lambda _, args, output, name=name: given.append((name, output)))
        for name, module in model.named_modules()
        if name
    ]
    try:
        outputs = tensors_of(model.eval()(batch["images"]))
    except ConvbodyError:
        raise
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        shape = tuple(batch["images"].shape)
        raise ConvbodyError(f"a model does not take images {shape}: {in_one_line(error)}") from error
    finally:
        for handle in handles:
            handle.remove()
    makers = [next((name for name, made in reversed(given) if made is output), "") for output in outputs]
    return outputs, makers
