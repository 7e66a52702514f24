"""How long it takes to build a backbone: with random weights, and for loading weights from a file.

    python benchmarks/build_time.py [CONV_BODY] [--repeat 21]

The two are built in turn, on one thread; the medians are printed, in milliseconds, and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from backbones import build_backbone
from backbones.weights.deferred import deferred_init
from registry import Config, load_cfg


def for_loading(cfg: Config) -> float:
    """Milliseconds until the backbone could take the weights of a file."""
    with deferred_init():
        milliseconds = timed(lambda: build_backbone(cfg))
    return milliseconds


def timed(build: Callable[[], nn.Module]) -> float:
    """Milliseconds that a call takes."""
    started = time.perf_counter()
    build()
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("conv_body", nargs="?", default="R-50-FPN", metavar="CONV_BODY")
    parser.add_argument("--repeat", type=int, default=21, help="builds of each kind (21)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cfg = load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", args.conv_body])
    build_backbone(cfg)  # the first one imports
    rounds = [(timed(lambda: build_backbone(cfg)), for_loading(cfg)) for _ in range(args.repeat)]
    random, loading = (statistics.median(times) for times in zip(*rounds, strict=True))
    ratio = random / loading
    print(f"{args.conv_body}: random {random:.1f} ms, for loading {loading:.1f} ms, {ratio:.1f} times")


if __name__ == "__main__":
    main()
