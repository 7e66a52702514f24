"""Runs calls of operators one by one, for a program that watches them: a sanitizer of the CPU or of the GPU.

    python tests/csrc/NAME_odd_shapes.py LIBRARY [LIBRARY] [--device cuda] [--until SECONDS]

Prints the number of calls in the end. With --until, in seconds since 1970, the calls are taken in a mixed
order, until then.
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence

import torch


def run(calls: Sequence[Callable[[str], None]]) -> None:
    """Loads the libraries and makes the calls, each with the name of the device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("libraries", nargs="+")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--until", type=float)
    args = parser.parse_args()
    for library in args.libraries:
        torch.ops.load_library(library)
    torch.set_num_threads(2)
    if args.until:
        random.Random(0).shuffle(calls := list(calls))
    count = 0
    for call in calls:
        if args.until and time.time() > args.until:
            break
        call(args.device)
        count += 1
    if args.device == "cuda":
        torch.cuda.synchronize()
    print(count)
