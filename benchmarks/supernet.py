"""A step of the supernet: all candidates one by one, batched, or a few of them sampled.

    python benchmarks/supernet.py [--size 28] [--batch 32] [--repeat 9]

The published space up to 64 channels at strides for small images, forward and backward, float32, one thread.
The four are run in turn; the medians of CPU time are printed, and the peak of memory that autograd and the
operators hold at once beyond the weights, from the profiler's record of the allocator.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from convbody.search.choice import gumbel_shares
from convbody.search.space import space_from_cfg
from convbody.search.supernet import Supernet
from registry import load_cfg

SPACE = [
    *("SEARCH.SPACE.FIRST", (16, 1)),
    *("SEARCH.SPACE.BLOCKS", ([16, 1, 1], [24, 4, 2], [32, 4, 1], [64, 4, 2])),
]


class PublishedSupernet(Supernet):
    """The naive sum with images and weights in the order of memory that is torch's default."""

    def forward(self, images: torch.Tensor, shares: torch.Tensor | None = None) -> torch.Tensor:
        """As ``Supernet.forward``, of a mixture."""
        assert shares is not None
        x = self.first(images)
        for layer, row in zip(self.layers, shares, strict=True):
            x = layer.naive(x, row)  # type: ignore[operator]
        return F.linear(x.mean((2, 3)), self.fc.weight, self.fc.bias)


def supernets() -> dict[str, Supernet]:
    """By name, all of them with the same kind of weights."""
    space = space_from_cfg(load_cfg(None, SPACE))
    published = PublishedSupernet(space, 3, 10).to(memory_format=torch.contiguous_format)
    others = {mode: Supernet(space, 3, 10, mode) for mode in ("naive", "soft", "sampled")}
    names = {"naive": "naive sum, channels last", "soft": "soft", "sampled": "sampled, 2 draws"}
    return {"naive sum": published} | {names[mode]: net for mode, net in others.items()}


def peak_mebibytes(step: Callable[[], None]) -> float:
    """The most that is allocated at once during a step, beyond what was before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    held = most = 0
    for event in sorted(record.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=28, help="side of the images in pixels (28)")
    parser.add_argument("--batch", type=int, default=32, help="images (32)")
    parser.add_argument("--repeat", type=int, default=9, help="steps of each (9)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    nets = supernets()
    images, labels = torch.randn(args.batch, 3, args.size, args.size), torch.randint(0, 10, (args.batch,))

    def step(net: Supernet) -> Callable[[], None]:
        def run() -> None:
            net.zero_grad()
            F.cross_entropy(net(images, gumbel_shares(net.theta, 5.0)), labels).backward()

        return run

    seconds: dict[str, list[float]] = {name: [] for name in nets}
    for number in range(args.repeat + 1):
        for name, net in nets.items():
            started = time.thread_time()
            step(net)()
            if number:  # the first one warms up
                seconds[name].append(time.thread_time() - started)
    memory = {name: peak_mebibytes(step(net)) for name, net in nets.items()}
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        faster, share = medians["naive sum"] / median, memory[name] / memory["naive sum"]
        print(f"{name:<26}{1000 * median:8.0f} ms {faster:6.2f} times{memory[name]:8.0f} MiB {share:6.0%}")


if __name__ == "__main__":
    main()
