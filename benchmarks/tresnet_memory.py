"""What in-place activated batch norm saves: bytes kept for the backward pass, and what a training step costs.

    python benchmarks/tresnet_memory.py [--size 224] [--batch 8] [--repeat 9] [--threads 1]

Bytes are those of distinct memory that a forward pass of TResNet-M hands to autograd, without the weights,
with ABN, and with batch norm and an activation in place. A training step (forward, backward, SGD) is taken in
turn by TResNet-M with ABN, with batch norm, and by timm's tresnet_m; of the rounds the median is printed with
the quartiles, and as a ratio to timm's step in the same round.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import Classifier, build_backbone
from registry import load_cfg

CLASSES = 1000


def classifier(norm: str) -> nn.Module:
    """TResNet-M with a norm, for training."""
    cfg = load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "TResNet-M", "MODEL.TRESNETS.NORM", norm])
    return Classifier(build_backbone(cfg), CLASSES).train()


def saved_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes that autograd keeps of a forward pass; memory that is kept twice counts once."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(images)
    assert logits.requires_grad
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in weights)


def training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], float]:
    """A function that takes one step and gives its seconds."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> float:
        started = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return time.perf_counter() - started

    return step


def spread(values: Sequence[float], unit: str) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} {unit} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=224, help="side of the images (224)")
    parser.add_argument("--batch", type=int, default=8, help="images in a batch (8)")
    parser.add_argument("--repeat", type=int, default=9, help="rounds of steps; 0 leaves them out (9)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images, labels = torch.rand(args.batch, 3, args.size, args.size), torch.arange(args.batch) % CLASSES
    models = {norm: classifier(norm) for norm in ("ABN", "BN")}
    kept = {norm: saved_bytes(model, images) for norm, model in models.items()}
    print(f"torch {torch.__version__}, {platform.machine()}, threads {args.threads}")
    print(f"images {tuple(images.shape)}")
    for norm, count in kept.items():
        print(f"kept for the backward pass with {norm}: {count} bytes ({count / 2**20:.1f} MiB)")
    print(f"less with ABN: {1 - kept['ABN'] / kept['BN']:.1%}")
    if args.repeat:
        import timm

        models["timm"] = timm.create_model("tresnet_m").train()
        steps = {name: training_step(model, images, labels) for name, model in models.items()}
        for step in steps.values():
            step()
        rounds = [{name: step() for name, step in steps.items()} for _ in range(args.repeat)]
        for name in steps:
            ratios = spread([times[name] / times["timm"] for times in rounds], "times timm's")
            print(f"step with {name}: {spread([times[name] for times in rounds], 's')}, {ratios}")


if __name__ == "__main__":
    main()
