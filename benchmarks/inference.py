"""R-50-FPN without autograd: ours and torchvision's resnet_fpn_backbone, on the same weights and images.

    python benchmarks/inference.py [--size 800 1344] [--threads 1] [--rounds 5] [--forwards 2]
        [--memory-format auto] [--output FOLDER]

One float32 image. Each run is a process of its own, of both in turn, with malloc as it comes and with freed
memory kept (``convbody.allocator``); after one forward pass ``--forwards`` are counted. CPU time is user and
system, of all threads. That both give the same features is checked first. Saves inference.md, .csv and .svg.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import measure
import record

KEPT = ", freed memory kept"
PROGRAM = "import sys; sys.path.insert(0, 'benchmarks'); import inference; inference.worker(*sys.argv[1:])"


def worker(name: str, keep: str, memory_format: str, threads: str, *numbers: str) -> None:
    """Prints the seconds of a forward pass, as JSON. ``numbers``: height, width, passes."""
    from convbody.allocator import keep_freed_memory

    if keep == "keep":
        assert keep_freed_memory(), "this malloc is not glibc's"
    import peers
    import torch

    torch.set_num_threads(int(threads))
    height, width, forwards = map(int, numbers)
    backbone, images = peers.backbone(name, memory_format).eval(), torch.rand(1, 3, height, width)
    with torch.no_grad():
        print(json.dumps(peers.per_call(lambda: backbone(images), forwards)))


def difference(memory_format: str) -> float:
    """The largest difference of a feature of ours from torchvision's, as a share of that map's largest."""
    import peers
    import torch

    images = torch.rand(1, 3, 192, 256)
    with torch.no_grad():
        theirs = list(peers.backbone(peers.PEER).eval()(images).values())
        ours = peers.backbone(peers.OURS, memory_format).eval()(images)
    pairs = zip(theirs, ours, strict=True)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", nargs=2, default=("800", "1344"), metavar=("H", "W"), help="(800 1344)")
    parser.add_argument("--threads", nargs="+", default=["1"], help="of torch (1)")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind (5)")
    parser.add_argument("--forwards", default="2", help="forward passes that count (2)")
    parser.add_argument("--memory-format", default="auto", help="MODEL.MEMORY_FORMAT of ours (auto)")
    parser.add_argument("--output", type=Path, default=record.RESULTS, help="folder")
    args = parser.parse_args()
    found = difference(args.memory_format)
    assert found < 1e-4, f"features differ by {found:.1e}"
    size = " x ".join(args.size)
    text = f"1 x 3 x {size}; features differ by {found:.1e} of their largest at most.\n"
    merged: list[dict[str, dict[str, float]]] = [{} for _ in range(args.rounds)]
    for threads in args.threads:
        suffix = f", {threads} threads" if len(args.threads) > 1 else ""
        numbers = [threads, *args.size, args.forwards]
        programs = {
            f"{name}{label}{suffix}": [PROGRAM, name, keep, args.memory_format, *numbers]
            for label, keep in (("", "as it comes"), (KEPT, "keep"))
            for name in ("torchvision", "convbody")
        }
        rounds = measure.in_turn(programs, args.rounds)
        text += f"\n{threads} thread(s); torchvision with malloc as it comes is the reference.\n\n"
        text += record.table(rounds, next(iter(programs)), {"cpu": "CPU s a pass", "wall": "wall s a pass"})
        merged = [before | taken for before, taken in zip(merged, rounds, strict=True)]
    plot = record.bars(merged, "cpu", "CPU seconds of a forward pass, median and quartiles")
    record.save(args.output, "inference", text, merged, plot, ("torch", "torchvision"))


if __name__ == "__main__":
    main()
