"""What in-place activated batch norm saves: bytes kept for the backward pass, and what a training step costs.

    python benchmarks/tresnet_memory.py [--size 224] [--batch 8] [--step-batch 4] [--rounds 5] [--threads 1]
        [--output FOLDER]

Bytes are those of distinct memory that a forward pass of TResNet-M hands to autograd, without the weights,
with ABN, and with batch norm and an activation in place. A training step (forward, backward, SGD) is taken in
turn by TResNet-M with ABN, with batch norm, and by timm's tresnet_m, contiguous and channels_last. CPU time
is user and system, of all threads. Of the rounds the median is given with the quartiles; ratios are to timm's
step of the same round and memory format. Prints what it found and saves it as tresnet.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import measure
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import Classifier, build_backbone
from backbones.ops import status
from registry import load_cfg

CLASSES = 1000
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def classifier(norm: str) -> nn.Module:
    """TResNet-M with a norm, for training."""
    cfg = load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "TResNet-M", "MODEL.TRESNETS.NORM", norm])
    return Classifier(build_backbone(cfg), CLASSES).train()


def saved_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes that autograd keeps of a forward pass; memory that is kept twice counts once."""
    with measure.saved_for_backward(model) as saved:
        logits = model(images)
    assert logits.requires_grad
    return saved.distinct


def training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """A function that takes one step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def time_steps(models: dict[str, nn.Module], images: Tensor, layout: str, rounds: int) -> str:
    """Lines of a table, of the models in turn."""
    labels = torch.arange(len(images)) % CLASSES
    images = images.to(memory_format=LAYOUTS[layout])
    steps = {}
    for name, model in models.items():
        model.to(memory_format=LAYOUTS[layout])
        steps[name] = training_step(model, images, labels)
        steps[name]()
    times = [{name: measure.seconds(step) for name, step in steps.items()} for _ in range(rounds)]
    lines = ""
    for name in steps:
        cells = [measure.quartiles([taken[name][kind] for taken in times], 3) for kind in (0, 1)]
        cells += [
            measure.quartiles([taken[name][kind] / taken["timm"][kind] for taken in times], 3)
            for kind in (0, 1)
        ]
        lines += f"| {layout} | {name} | {' | '.join(cells)} |\n"
    return lines


def environment() -> str:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    command = shlex.join(["python", "benchmarks/tresnet_memory.py", *sys.argv[1:]])
    return (
        f"`{command}`, {time.strftime('%Y-%m-%d')}.\n"
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores; {platform.system()}, "
        f"Python {platform.python_version()},\ntorch {torch.__version__}, timm {timm.__version__}, "
        f"threads {torch.get_num_threads()}. Operators: {status()['cpu']}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=224, help="side of the images (224)")
    parser.add_argument("--batch", type=int, default=8, help="images whose bytes are counted (8)")
    parser.add_argument("--step-batch", type=int, default=4, help="images of a training step (4)")
    parser.add_argument("--rounds", type=int, default=5, help="of steps, at least 2 (5)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images = torch.rand(max(args.batch, args.step_batch), 3, args.size, args.size)
    models = {norm: classifier(norm) for norm in ("ABN", "BN")}
    kept = {norm: saved_bytes(model, images[: args.batch]) for norm, model in models.items()}
    text = f"{environment()}\nKept for the backward pass of {args.batch} x 3 x {args.size} x {args.size}: "
    text += "; ".join(f"{name} {count:,} bytes" for name, count in kept.items())
    text += f"; {1 - kept['ABN'] / kept['BN']:.1%} less with ABN.\n\n"
    models["timm"] = timm.create_model("tresnet_m").train()
    text += f"A training step of {args.step_batch} images:\n\n"
    text += "| layout | norm | wall s | CPU s | wall / timm | CPU / timm |\n|" + " --- |" * 6 + "\n"
    for layout in LAYOUTS:
        text += time_steps(models, images[: args.step_batch], layout, args.rounds)
    print(text, end="")
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "tresnet.md").write_text(text)


if __name__ == "__main__":
    main()
