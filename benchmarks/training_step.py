"""A training step of Mask R-CNN R-50-FPN, ours and torchvision's, on the same weights, images and targets.

    python benchmarks/training_step.py [--size 400 600] [--threads 1] [--rounds 3] [--steps 1]
        [--output FOLDER]

Two float32 images of eight objects each; the stem and the first stage are frozen. A step is forward pass,
backward pass and SGD. Each run is a process of its own, of all in turn, with freed memory kept; ours once
more with MODEL.RECOMPUTE "cheap". The first step is not counted, and its losses are compared. What is kept
for the backward pass is the memory, without the weights, of all tensors that autograd was given, of the
whole detector and of its backbone alone. Saves training_step.md, .csv and .svg.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import measure
import peers
import record

PROGRAM = "import sys; sys.path.insert(0, 'benchmarks'); import training_step as t; t.worker(*sys.argv[1:])"
CHEAP = f"{peers.OURS}, RECOMPUTE cheap"
SIDES = {peers.PEER: (peers.PEER, "none"), peers.OURS: (peers.OURS, "none"), CHEAP: (peers.OURS, "cheap")}


def worker(name: str, recompute: str, threads: str, *numbers: str) -> None:
    """Prints the seconds of a step, its first loss and what it keeps, as JSON.

    ``numbers``: height, width, steps.
    """
    from convbody.allocator import keep_freed_memory

    keep_freed_memory()
    import torch

    torch.set_num_threads(int(threads))
    height, width, steps = map(int, numbers)
    model = peers.detector(name, height, width, recompute).train()
    images, targets = batch(height, width)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=1e-5, momentum=0.9)

    def loss() -> torch.Tensor:
        return torch.stack(list(model(images, targets).values())).sum()

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    torch.manual_seed(1)  # of the sampled anchors and boxes
    with measure.saved_for_backward(model) as whole:
        first = loss()
    with measure.saved_for_backward(model) as part:
        features = model.backbone(torch.rand(2, 3, -(-height // 32) * 32, -(-width // 32) * 32))  # type: ignore[operator]
    numbers_found = {"loss": float(first.detach())}
    numbers_found |= {"detector": whole.distinct / 2**20, "backbone": part.distinct / 2**20}
    del first, features
    print(json.dumps(numbers_found | peers.per_call(step, steps)))


def batch(height: int, width: int) -> tuple[list, list]:
    import torch

    generator = torch.Generator().manual_seed(0)
    images = list(torch.rand(2, 3, height, width, generator=generator))
    targets = []
    for _ in images:
        corners = torch.rand(8, 2, generator=generator) * torch.tensor([width * 0.6, height * 0.6])
        sides = (0.1 + 0.25 * torch.rand(8, 2, generator=generator)) * torch.tensor([width, height])
        boxes = torch.cat([corners, corners + sides], dim=1)
        masks = torch.zeros(8, height, width, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        labels = torch.randint(1, 91, (8,), generator=generator)
        targets.append({"boxes": boxes, "labels": labels, "masks": masks})
    return images, targets


def _counts(taken: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"| MiB kept | {' | '.join(SIDES)} |", "| --- |" + " --- |" * len(SIDES)]
    for part in ("detector", "backbone"):
        theirs = taken[peers.PEER][part]
        cells = [f"{taken[side][part]:.1f} ({taken[side][part] / theirs:.2f})" for side in SIDES]
        lines.append(f"| {part}, and the share of torchvision's | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", nargs=2, default=("400", "600"), metavar=("H", "W"), help="(400 600)")
    parser.add_argument("--threads", default="1", help="of torch (1)")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each (3)")
    parser.add_argument("--steps", default="1", help="steps that count (1)")
    parser.add_argument("--output", type=Path, default=record.RESULTS, help="folder")
    args = parser.parse_args()
    programs = {
        side: [PROGRAM, *which, args.threads, *args.size, args.steps] for side, which in SIDES.items()
    }
    rounds = measure.in_turn(programs, args.rounds)
    losses = [rounds[0][side]["loss"] for side in SIDES]
    assert max(losses) - min(losses) < 1e-3 * losses[0], f"losses of the first step are {losses}"
    size = " x ".join(args.size)
    text = f"2 x 3 x {size}, {args.threads} thread(s); losses of the first step are equal.\n\n"
    text += record.table(rounds, peers.PEER, {"cpu": "CPU s a step", "wall": "wall s a step"})
    text += "\n" + _counts(rounds[0])
    plot = record.bars(rounds, "cpu", "CPU seconds of a training step, median and quartiles")
    record.save(args.output, "training_step", text, rounds, plot, ("torch", "torchvision"))


if __name__ == "__main__":
    main()
