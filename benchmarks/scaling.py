"""How data-parallel training of a detector scales, from its gradient bytes and what is assumed of the GPUs.

    python benchmarks/scaling.py configs/coco/mask_rcnn_R_50_FPN_1x.yaml [--measure] [KEY VALUE ...]

Gradient bytes are counted on the model. Everything else in the table is worked out from the assumptions given
as arguments, by the formulas of docs/scaling.md; nothing of it is measured. ``--measure`` also times training
steps on this CPU, one thread, one image of ``--size``: CPU seconds, medians, and the backward pass's share.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from dataclasses import dataclass

import torch

from convbody.detection import build_detector
from registry import load_cfg

MIB = 2**20


@dataclass(frozen=True)
class Assumptions:
    """What is assumed. Times in seconds, speeds in bytes per second and direction, of one GPU's share."""

    step: float
    backward_share: float
    images: int
    node: int
    node_speed: float
    network_speed: float
    latency: float
    bucket: float
    largest_batch: int


def all_reduce(size: float, gpus: int, given: Assumptions) -> float:
    """Seconds of a ring all-reduce of ``size`` bytes: 2 (n - 1) / n of them, in 2 (n - 1) messages."""
    speed = given.node_speed if gpus <= given.node else given.network_speed
    return 2 * (gpus - 1) / gpus * size / speed + 2 * (gpus - 1) * given.latency


def step_seconds(size: float, gpus: int, given: Assumptions) -> float:
    """Seconds of an iteration: the step, and what of the all-reduce the backward pass does not hide."""
    if gpus == 1:
        return given.step
    hidden = given.backward_share * given.step
    last = all_reduce(min(given.bucket, size), gpus, given)
    return given.step + max(_buckets(size, gpus, given) - hidden, last)


def _buckets(size: float, gpus: int, given: Assumptions) -> float:
    whole, rest = divmod(size, given.bucket)
    return whole * all_reduce(given.bucket, gpus, given) + (all_reduce(rest, gpus, given) if rest else 0.0)


def row(size: float, gpus: int, given: Assumptions) -> str:
    """One row of the table."""
    step, batch = step_seconds(size, gpus, given), gpus * given.images
    fits = "yes" if batch <= given.largest_batch else f"no, {given.largest_batch // given.images} GPUs do"
    traffic = 1000 * _buckets(size, gpus, given) if gpus > 1 else 0.0
    return (
        f"| {gpus} | {batch} | {traffic:.1f} | {1000 * step:.1f} | {given.step / step:.1%} | "
        f"{batch / step:.0f} | {fits} |"
    )


def measure(model: torch.nn.Module, size: int, repeat: int) -> None:
    """Prints CPU seconds of forward and backward, one image with two objects."""
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.9, 0.9]]) * size
    masks = torch.zeros(2, size, size, dtype=torch.uint8)
    masks[:, size // 4 : size // 2, size // 4 : size // 2] = 1
    target = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks}
    image = torch.rand(3, size, size)
    forward, backward = [], []
    for _ in range(repeat + 1):
        model.zero_grad()
        started = time.process_time()
        loss = torch.stack(list(model([image], [target]).values())).sum()
        between = time.process_time()
        loss.backward()
        forward.append(between - started)
        backward.append(time.process_time() - between)
    ahead, back = statistics.median(forward[1:]), statistics.median(backward[1:])
    print(f"measured: torch {torch.__version__}, {platform.machine()}, 1 thread, 1x3x{size}x{size}")
    print(f"forward {ahead:.2f} s, backward {back:.2f} s, share of backward {back / (ahead + back):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="of the detector")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes of the config")
    parser.add_argument("--measure", action="store_true", help="time steps on this CPU")
    parser.add_argument("--size", type=int, default=128, help="side of the measured image (128)")
    parser.add_argument("--repeat", type=int, default=3, help="measured steps (3)")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--step-ms", type=float, default=200.0, help="ASSUMED step of one GPU (200)")
    parser.add_argument("--backward-share", type=float, default=0.6, help="ASSUMED share of it (0.6)")
    parser.add_argument("--images", type=int, default=2, help="images of a GPU's step (2)")
    parser.add_argument("--node", type=int, default=8, help="ASSUMED GPUs of a machine (8)")
    parser.add_argument("--node-gbytes", type=float, default=200.0, help="ASSUMED GB/s inside one (200)")
    parser.add_argument("--network-gbits", type=float, default=100.0, help="ASSUMED Gbit/s of a GPU (100)")
    parser.add_argument("--latency-us", type=float, default=5.0, help="ASSUMED, of a message (5)")
    parser.add_argument("--bucket-mib", type=float, default=25.0, help="DDP's bucket (25)")
    parser.add_argument("--largest-batch", type=int, default=256, help="ASSUMED to train well (256)")
    args = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_detector(load_cfg(args.config, args.opts)).train()
    size = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    print(f"counted: gradients of {args.config}: {size} bytes ({size / MIB:.1f} MiB)")
    if args.measure:
        measure(model, args.size, args.repeat)
    given = Assumptions(
        step=args.step_ms / 1e3,
        backward_share=args.backward_share,
        images=args.images,
        node=args.node,
        node_speed=args.node_gbytes * 1e9,
        network_speed=args.network_gbits * 1e9 / 8,
        latency=args.latency_us / 1e6,
        bucket=args.bucket_mib * MIB,
        largest_batch=args.largest_batch,
    )
    print(f"assumed: {given}")
    print("| GPUs | batch | all-reduce, ms | step, ms | efficiency | images/s | batch trains well |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for gpus in args.gpus:
        print(row(size, gpus, given))


if __name__ == "__main__":
    main()
