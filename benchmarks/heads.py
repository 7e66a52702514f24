"""RoIAlign and non-maximum suppression on the CPU: ours beside torchvision's, at Mask R-CNN's shapes.

    python benchmarks/heads.py [--rounds 5] [--threads 1 2] [--quick]

One image of 800x1344, float32: the pyramid's four maps of 256 channels; 1000 boxes cut out as 7x7 for the box
head, 100 as 14x14 for the masks, two samples per bin and direction; boxes of which each map gets a quarter.
Suppression is of proposals (five groups, overlap 0.7) and of detections (80 groups, 0.5). Ours and
torchvision's take turns, and ratios are those of one round. CPU time (user and system, of all threads) is
less at the mercy of other programs than wall time. Prints a table: median, lower and upper quartile.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchvision.ops
from measure import environment, quartiles, seconds
from torch import Tensor

from backbones import ops
from backbones.ops import status

STRIDES = (4, 8, 16, 32)
Call = Callable[[Any], object]  # of backbones.ops, or torchvision.ops


def maps(quick: bool, layout: torch.memory_format) -> list[Tensor]:
    """A pyramid of one image."""
    channels, (height, width) = (8, (64, 96)) if quick else (256, (800, 1344))
    drawn = (torch.randn(1, channels, -(-height // s), -(-width // s)) for s in STRIDES)
    return [each.contiguous(memory_format=layout) for each in drawn]


def boxes_of(feature: Tensor, stride: int, count: int) -> Tensor:
    """Boxes (count, 5) as large as this map serves: 14 to 28 of its pixels a side, if it has as many."""
    size = torch.tensor([feature.shape[3], feature.shape[2]]) * float(stride)
    sides = torch.minimum(stride * (14 + 14 * torch.rand(count, 2)), size)
    corners = torch.rand(count, 2) * (size - sides)
    return torch.cat([torch.zeros(count, 1), corners, corners + sides], dim=1)


def pooling(quick: bool, layout: torch.memory_format, count: int, side: int, train: bool) -> Call:
    """RoIAlign over the pyramid; ``train`` adds the backward pass."""
    features = [feature.requires_grad_(train) for feature in maps(quick, layout)]
    per_map = 3 if quick else count // len(STRIDES)
    rois = [boxes_of(feature, stride, per_map) for feature, stride in zip(features, STRIDES, strict=True)]

    def call(implementation: Any) -> object:
        out = [
            implementation.roi_align(feature, box, side, 1 / stride, 2)
            for feature, box, stride in zip(features, rois, STRIDES, strict=True)
        ]
        return torch.autograd.grad([each.sum() for each in out], features) if train else out

    return call


def suppressing(quick: bool, count: int, groups: int, overlap: float) -> Call:
    """Suppression of boxes of up to 200 pixels a side."""
    count = 50 if quick else count
    boxes = torch.rand(count, 4) * torch.tensor([1344, 800, 200, 200])
    boxes[:, 2:] += boxes[:, :2]
    scores, idxs = torch.rand(count), torch.randint(groups, (count,))
    return lambda implementation: implementation.batched_nms(boxes, scores, idxs, overlap)


def cases(quick: bool) -> dict[str, Call]:
    """What is measured, by name."""
    torch.manual_seed(0)
    found: dict[str, Call] = {}
    for name, layout in {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}.items():
        found[f"1000 boxes 7x7, {name}"] = pooling(quick, layout, 1000, 7, False)
        found[f"100 boxes 14x14, {name}"] = pooling(quick, layout, 100, 14, False)
        found[f"512 boxes 7x7, forward and backward, {name}"] = pooling(quick, layout, 512, 7, True)
    for count in (1000, 2000, 4800):
        found[f"suppression, {count} proposals of 5 maps"] = suppressing(quick, count, 5, 0.7)
    found["suppression, 4800 detections of 80 classes"] = suppressing(quick, 4800, 80, 0.5)
    return found


def ratios(call: Call, rounds: int) -> tuple[list[float], list[float]]:
    """How many times our CPU and our wall time torchvision takes, by round; one before is not counted."""
    cpu, wall = [], []
    for _ in range(rounds + 1):
        ours, theirs = seconds(partial(call, ops)), seconds(partial(call, torchvision.ops))
        wall.append(theirs[0] / ours[0])
        cpu.append(theirs[1] / ours[1])
    return cpu[1:], wall[1:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each, 2 at least (5)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of torch (1 2)")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that it runs")
    args = parser.parse_args()
    print(f"{environment('torch', 'torchvision')}. Ours is {status()['cpu']}.\n")
    print("| torchvision / ours | threads | CPU time | wall time |\n| --- | --- | --- | --- |")
    for name, call in cases(args.quick).items():
        for threads in args.threads:
            torch.set_num_threads(threads)
            cpu, wall = ratios(call, args.rounds)
            print(f"| {name} | {threads} | {quartiles(cpu, 1)} | {quartiles(wall, 1)} |", flush=True)


if __name__ == "__main__":
    main()
