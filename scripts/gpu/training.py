"""Part 4 of the GPU check: training runs, resuming, one process as a group, and backbones on a GPU.

    scripts/gpu/training.py --device cuda|cpu [--rehearse] --json FILE

The lanes run side by side, so the times of iterations here are no benchmark. Data: the trees and weights in
$CONVBODY_DATASETS, and pictures that are drawn here.
"""

from __future__ import annotations

import sys
from functools import cache

import backbone_checks
import process_checks
import runs
import torch
from exactness import exact_products
from lanes import Check, Lanes, run_lanes
from rows import Rows, arguments


def main() -> int:
    args = arguments(__doc__)
    exact_products()
    if args.rehearse:
        torch.set_num_threads(1)
    return run_lanes(args, lanes(args.device, args.rehearse), side_by_side=1 if args.rehearse else 4)


def lanes(name: str, rehearse: bool) -> Lanes:
    """The checks, in the order of what they tell."""
    device = torch.device(name)

    @cache
    def data() -> runs.Data:
        return runs.Data.make(24 if rehearse else 96)

    def trains(title: str, config: str, dtype: str) -> Check:
        def run(rows: Rows) -> None:
            runs.train(rows, title, data(), config, dtype, device=name, rehearse=rehearse)

        return Check(title, run, 60)

    def resumes(rows: Rows) -> None:
        runs.resume_after_kill(rows, data(), device=name, rehearse=rehearse)

    def backbone(check: str, body: str) -> Check:
        def run(rows: Rows) -> None:
            getattr(backbone_checks, check)(rows, device, body, rehearse=rehearse)

        return Check(f"{check} of {body}", run, 40)

    bodies = list(backbone_checks.BACKBONES)
    return {
        "backbones": [
            *(backbone("check_no_waiting", body) for body in bodies[:2]),
            *(backbone("check_graph", body) for body in bodies[:2]),
            Check(
                "memory formats",
                lambda rows: backbone_checks.check_memory_format(rows, device, rehearse=rehearse),
                40,
            ),
            *(backbone("check_no_waiting", body) for body in bodies[2:]),
            *(backbone("check_graph", body) for body in bodies[2:]),
        ],
        "quickstart": [
            trains("quickstart in bfloat16", runs.QUICKSTART, "bfloat16"),
            trains("quickstart in float16", runs.QUICKSTART, "float16"),
        ],
        "Mask R-CNN": [
            trains("Mask R-CNN on drawn pictures, bfloat16", runs.DRAWN_MASKS, "bfloat16"),
            Check("batches copied ahead", lambda rows: process_checks.check_prefetch(rows, device, data())),
            Check(
                "a group of one process", lambda rows: process_checks.check_group(rows, device, data()), 60
            ),
        ],
        "resume": [Check("resume after SIGKILL", resumes, 80)],
    }


if __name__ == "__main__":
    sys.exit(main())
