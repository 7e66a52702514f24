"""Times of R-50-FPN and of a training step of Mask R-CNN, beside torchvision's with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from clock import peak_mebibytes, ratio, shown, times  # puts benchmarks/ on the path
from exactness import name_of, relative_error
from peers import OURS, PEER, backbone, detector
from rows import Rows
from torch import nn
from training_step import batch

SIZE, SMALL = (800, 1344), (96, 128)
SIDES = (OURS, PEER)


def precision(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Autocast to a type, or none for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)


def check_backbone(rows: Rows, device: torch.device, dtype: torch.dtype, *, rehearse: bool) -> None:
    """R-50-FPN without gradients, two images."""
    height, width = SMALL if rehearse else SIZE
    models = {side: backbone(side).to(device).eval() for side in SIDES}
    images = [torch.rand(2, 3, height, width, device=device) for _ in range(2)]

    def forward(side: str, number: int) -> list[torch.Tensor]:
        with torch.no_grad(), precision(device, dtype):
            features = models[side](images[number])
        return list(features.values() if isinstance(features, dict) else features)

    what = f"R-50-FPN, 2 x 3 x {height} x {width}, {name_of(dtype)}"
    pairs = zip(*(forward(side, 0) for side in SIDES), strict=True)
    error, bound = max(relative_error(a, b) for a, b in pairs), {torch.float32: 1e-4}.get(dtype, 5e-2)
    rows.add(f"{what}: both give the same", error <= bound, error, "relative error", f"at most {bound:g}")
    calls = {side: partial(forward, side) for side in SIDES}
    found = times(device, calls, rounds=1 if rehearse else 10, inner=len(images))
    report(rows, what, found)
    peaks = [peak_mebibytes(device, partial(forward, side, 0)) for side in SIDES]
    rows.add(f"{what}: peak memory", None, peaks, "MiB", " and ".join(SIDES))


def check_training_step(
    rows: Rows, device: torch.device, dtype: torch.dtype, *, compiled: bool, rehearse: bool
) -> None:
    """Mask R-CNN, two images of eight objects: forward and backward pass and SGD."""
    height, width = SMALL if rehearse else SIZE
    way = "compiled backbone" if compiled else "eager"
    what = f"training step of Mask R-CNN, 2 x 3 x {height} x {width}, {name_of(dtype)}, {way}"
    images, targets = batch(height, width)
    images = [image.to(device) for image in images]
    targets = [{key: value.to(device) for key, value in target.items()} for target in targets]
    steps: dict[str, Callable[..., torch.Tensor]] = {}
    for side in SIDES:
        model = detector(side, height, width).to(device).train()
        if compiled:  # as MODEL.COMPILE does; a rehearsal does without the C++ compiler
            model.get_submodule("backbone").compile(
                dynamic=True, backend="aot_eager" if rehearse else "inductor"
            )
        steps[side] = training(model, images, targets, precision(device, dtype))
    losses = {}
    for side, step in steps.items():
        torch.manual_seed(1)  # of the sampled anchors and boxes
        losses[side] = float(step())
    finite = all(loss == loss and abs(loss) < 1e4 for loss in losses.values())
    near = abs(losses[OURS] - losses[PEER]) <= 1e-3 * losses[PEER]
    right = finite and (near or dtype is not torch.float32)
    rows.add(f"{what}: first losses", right, list(losses.values()), "", " and ".join(SIDES))
    found = times(device, steps, rounds=1 if rehearse else 8, inner=1)
    report(rows, what, found)
    peaks = [peak_mebibytes(device, step) for step in steps.values()]
    rows.add(f"{what}: peak memory beside the weights", None, peaks, "MiB", " and ".join(SIDES))


def training(
    model: nn.Module,
    images: list[torch.Tensor],
    targets: list[dict[str, torch.Tensor]],
    autocast: AbstractContextManager[None],
) -> Callable[..., torch.Tensor]:
    """A step; it gives the loss."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-5, momentum=0.9)

    def step(_: int = 0) -> torch.Tensor:
        optimizer.zero_grad()
        with autocast:
            loss = torch.stack([term.float() for term in model(images, targets).values()]).sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def report(rows: Rows, what: str, found: dict[str, list[float]]) -> None:
    """Times of both, and how many times longer torchvision's took."""
    for side in SIDES:
        rows.add(f"{what}: {side}", None, shown(found[side]), "ms", "median and quartiles")
    rows.add(f"{what}: {PEER} / {OURS}", None, ratio(found[PEER], found[OURS]), "times")
