"""Running one side, in float32 and in float64, and writing down every tensor on the way."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from convbody.compare.objective import Objective
from convbody.compare.record import Batch, Place, Record, Seen
from convbody.training.random_state import seed_everything, untouched_random_state

#: What acts at random in training; it is put to rest, because no two programs draw alike.
_RANDOM = {"Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"}
_RANDOM |= {"StochasticDepth", "DropPath", "DropBlock2d"}

_SETTINGS = ("lr", "momentum", "dampening", "nesterov", "weight_decay", "betas", "eps")

Sink = Callable[[Place, Tensor], None]


@dataclass
class Side:
    """A model in training and its optimiser, whose groups hold their learning rates."""

    label: str
    model: nn.Module
    optimizer: torch.optim.Optimizer


def observe(
    side: Side, objective: Objective, batch: Batch, *, loss: str, steps: int = 1, seed: int = 0
) -> Record:
    """The record of ``steps`` steps from the weights that ``side`` has; these stay as they are.

    Layers and gradients are seen in the first step; loss, parameters and buffers in each. Every step starts
    from the same ``seed``, and dropout is off.
    """
    record = Record(side.label, loss, batch)
    values: dict[Place, Tensor] = {}

    def keep(place: Place, tensor: Tensor) -> None:
        values[place] = tensor.clone()

    residuals: dict[Place, Tensor] = {}

    def measure(place: Place, exact: Tensor) -> None:
        value = values.get(place)
        if value is not None and value.shape == exact.shape:
            residuals[place] = exact - value

    with untouched_random_state():
        model, optimizer = copy.deepcopy((side.model, side.optimizer))
        _run(model, optimizer, objective, batch, steps, seed, keep)
        model, optimizer = copy.deepcopy((side.model, side.optimizer))
        exact = {name: t.double() if t.is_floating_point() else t for name, t in batch.items()}
        with _Float32Watch() as watch:
            _run(model.double(), optimizer, objective, exact, steps, seed, measure)
    for place, value in values.items():
        residual = residuals.pop(place, None)
        if residual is None:
            record.places[place] = Seen(value, float("inf"))
        else:
            record.places[place] = Seen(value, rms(residual), residual.float())
    record.pure = not watch.seen
    record.modules = {name: one_line(module) for name, module in side.model.named_modules()}
    record.groups = _settings(side)
    return record


def rms(values: Tensor) -> float:
    """The root of the mean square of a float64 tensor; 0 for one without elements."""
    return float(values.square().mean().sqrt()) if values.numel() else 0.0


def floating(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; counters, which are integers, are left out."""
    return {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}


def one_line(module: nn.Module) -> str:
    """What a layer says of itself; of a module with children, its class."""
    return type(module).__name__ if next(module.children(), None) is not None else repr(module)


def _run(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    batch: Batch,
    steps: int,
    seed: int,
    sink: Sink,
) -> None:
    model.train()
    for module in model.modules():
        if type(module).__name__ in _RANDOM:
            module.eval()
    for name, tensor in floating(model).items():
        sink(Place("weights", name), tensor)
    for step in range(1, steps + 1):
        seed_everything(seed)
        with _hooks(model, sink) if step == 1 else nullcontext():
            outcome = objective(model, batch)
        phase = "loss" if step == 1 else f"step {step}"
        if step == 1:
            for name, output in outcome.outputs.items():
                sink(Place("forward", name), output.detach())
        total = torch.stack(list(outcome.losses.values())).sum()
        for name, term in outcome.losses.items():
            sink(Place(phase, f"loss: {name}"), term.detach())
        sink(Place(phase, "loss"), total.detach())
        optimizer.zero_grad()
        total.backward()
        if step == 1:
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    sink(Place("gradients", name), parameter.grad)
        optimizer.step()
        for name, tensor in floating(model).items():
            sink(Place(f"step {step}", name), tensor)


class _Float32Watch(TorchDispatchMode):
    """While entered, whether an operation gave float32; single numbers, counters of optimisers, may be."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen |= isinstance(result, Tensor) and result.dtype is torch.float32 and result.dim() > 0
        return result


@contextmanager
def _hooks(model: nn.Module, sink: Sink) -> Iterator[None]:
    """While entered, ``sink`` gets the input of every layer, and the output of every module."""
    calls: Counter[str] = Counter()

    def before(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor):
                sink(Place("forward", name, "input", calls[name]), args[0].detach())

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                sink(Place("forward", name, "output", calls[name]), output.detach())
            calls[name] += 1

        return hook

    handles = []
    for name, module in model.named_modules():
        if name:
            if next(module.children(), None) is None:
                handles.append(module.register_forward_pre_hook(before(name)))
            handles.append(module.register_forward_hook(after(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _settings(side: Side) -> dict[str, dict[str, Any]]:
    names = {parameter: name for name, parameter in side.model.named_parameters()}
    return {
        names[parameter]: {key: group[key] for key in _SETTINGS if key in group}
        for group in side.optimizer.param_groups
        for parameter in group["params"]
        if parameter in names
    }
