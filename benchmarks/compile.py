"""MODEL.COMPILE: what the compiler takes at the first calls, and what a backbone then gains.

    python benchmarks/compile.py [--body R-18-FPN] [--size 320 480] [--images 2] [--train] [--rounds 5]

A backbone and its copy with MODEL.COMPILE, the same weights and float32 images, in one process, without
autograd in evaluation mode, or with ``--train`` forward and backward. The first call compiles. Then come an
image of another size, to see whether it compiles again, and rounds of both in turn, of which the first does
not count. Nothing compiled before is used. CPU time is user and system, of all threads and of the compilers.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable

import measure
import record
import torch
from torch import Tensor, nn

from backbones import build_backbone
from registry import load_cfg


def seconds(call: Callable[[], object]) -> dict[str, float]:
    """CPU and wall seconds of a call, programs it starts and waits for included."""
    before, began = os.times(), time.perf_counter()
    call()
    wall, after = time.perf_counter() - began, os.times()
    return {"cpu": sum(after[:4]) - sum(before[:4]), "wall": wall}


def backbone(body: str, compiled: bool, train: bool) -> nn.Module:
    """The same weights every time."""
    torch.manual_seed(0)
    model = build_backbone(load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", body, "MODEL.COMPILE", compiled]))
    return model.train(train)


def run(model: nn.Module, images: Tensor, train: bool) -> list[Tensor]:
    """The features; with ``train``, the gradients are computed as well."""
    with torch.set_grad_enabled(train):
        features: list[Tensor] = model(images)
        if train:
            torch.stack([feature.mean() for feature in features]).sum().backward()
    return [feature.detach() for feature in features]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--body", default="R-18-FPN", help="CONV_BODY (R-18-FPN)")
    parser.add_argument("--size", nargs=2, type=int, default=(320, 480), metavar=("H", "W"), help="(320 480)")
    parser.add_argument("--images", type=int, default=2, help="of a batch (2)")
    parser.add_argument("--train", action="store_true", help="forward and backward")
    parser.add_argument("--rounds", type=int, default=5, help="calls of each that count (5)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = {name: backbone(args.body, name == "compiled", args.train) for name in ("eager", "compiled")}
    height, width = args.size
    images = torch.rand(args.images, 3, height, width)
    print(measure.environment("torch"))
    for title, inputs in (
        ("first call", images),
        ("another size", torch.rand(args.images, 3, height + 64, width - 64)),
    ):
        for name, model in models.items():
            taken = seconds(lambda: run(model, inputs, args.train))  # noqa: B023
            print(f"{title}, {name}: {taken['cpu']:.1f} s CPU, {taken['wall']:.1f} s wall", flush=True)
    features = [run(model, images, args.train) for model in models.values()]
    worst = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*features, strict=True))
    print(f"features differ by {worst:.1e} of their largest at most\n")
    rounds = [
        {name: seconds(lambda: run(model, images, args.train)) for name, model in models.items()}  # noqa: B023
        for _ in range(args.rounds + 1)
    ]
    print(record.table(rounds[1:], "eager", {"cpu": "CPU s", "wall": "wall s"}, digits=3))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as fresh:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = fresh
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # the compilers' time is that of children
        main()
