"""Part 2 of the GPU check: every test for a GPU, and the operators against float64, of all types and layouts.

    scripts/gpu/operators.py --device cuda|cpu [--rehearse] --json FILE

The measure is ||out - exact|| / ||exact||, of fresh random inputs each time; a NaN or an infinity is no
result. The bounds by type are in exactness.py. Without a GPU the tests for one are skipped, which is no
failure of a rehearsal.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import deform_conv_checks
import norm_checks
import torch
from exactness import TYPES, exact_products, name_of
from lanes import Check, run_lanes
from rows import Rows, arguments

ROOT = Path(__file__).resolve().parents[2]
#: In order of what says most.
ORDER = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
assert set(ORDER) == set(TYPES)


def main() -> int:
    args = arguments(__doc__)
    device = torch.device(args.device)
    exact_products()
    print(f"random inputs of seed {torch.seed()}", flush=True)
    if args.rehearse:
        torch.set_num_threads(1)
    few = args.rehearse

    def values(check: Callable[..., None], kind: str) -> list[Check]:
        return [Check(f"{kind} {name_of(t)}", partial(check, device=device, dtype=t, few=few)) for t in ORDER]

    def properties(check: Callable[..., None], kind: str) -> Check:
        return Check(kind, partial(check, device=device), 40)

    lanes = {
        "deform_conv2d": [
            *values(deform_conv_checks.check_values, "deform_conv2d"),
            properties(deform_conv_checks.check_properties, "deform_conv2d, properties"),
        ],
        "norms and regions": [
            *values(norm_checks.check_values, "activated norm"),
            properties(norm_checks.check_properties, "activated norm, properties"),
            properties(norm_checks.check_regions, "regions"),
        ],
        "tests": [
            Check(path, partial(run_tests, path=path, skips=args.rehearse), 60) for path in files_of_tests()
        ],
    }
    return run_lanes(args, lanes, side_by_side=1 if args.rehearse else 3)


def files_of_tests() -> list[str]:
    """The files with tests for a GPU, relative to the root."""
    marked = (path for path in ROOT.glob("tests/**/test_*.py") if "mark.gpu" in path.read_text())
    return sorted(str(path.relative_to(ROOT)) for path in marked)


def run_tests(rows: Rows, path: str, *, skips: bool) -> None:
    """Runs the tests for a GPU in a file; ``skips``: they may be skipped, all of them."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-rfEs",
        "-p",
        "no:cacheprovider",
        "--tb=short",
    ]
    done = subprocess.run([*command, path], cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    counts = {
        word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)
    }
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR", "SKIPPED"))]
    summary = (
        ", ".join(f"{number} {word}" for word, number in counts.items()) or f"exit status {done.returncode}"
    )
    skipped = counts.get("skipped", 0)
    right = done.returncode == 0 and (skips or not skipped) and bool(counts)
    rows.add(path, right, counts.get("passed", 0), "passed", "\n".join([summary, *lines[:20]]))


if __name__ == "__main__":
    sys.exit(main())
