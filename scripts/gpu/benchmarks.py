"""Part 5 of the GPU check: times beside torchvision, interleaved, and shares of what the device can do.

    scripts/gpu/benchmarks.py --device cuda|cpu [--rehearse] --json FILE

Times are those of CUDA events after a warm-up: median and quartiles of the rounds, in which both sides take
turns. TF32 is off. Ceilings are measured first, in the same process. Operations and bytes are counted as if
each input were read and each output written once. A rehearsal has small sizes, and its times say nothing.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
from clock import ceiling_rows
from exactness import exact_products, name_of
from lanes import Check, run_lanes
from network_times import check_backbone, check_training_step
from operator_times import SHAPES, check_deform_conv, check_norm
from rows import Rows, arguments

TYPES = (torch.bfloat16, torch.float32, torch.float16)


def main() -> int:
    args = arguments(__doc__)
    exact_products()
    if args.rehearse:
        torch.set_num_threads(1)
    device, rehearse = torch.device(args.device), args.rehearse
    # float16 takes seconds on a CPU.
    types = (torch.float32, torch.bfloat16) if rehearse else TYPES
    where = {"device": device, "rehearse": rehearse}

    def ceilings(rows: Rows) -> None:
        for name, value, unit in ceiling_rows(device, rehearse):
            rows.add(name, None, value, unit)

    def step(dtype: torch.dtype, compiled: bool, seconds: float) -> Check:
        run = partial(check_training_step, dtype=dtype, compiled=compiled, **where)
        return Check(f"training step {name_of(dtype)}{', compiled' * compiled}", run, seconds)

    checks = [
        Check("ceilings", ceilings, 20),
        *(
            Check(
                f"deform_conv2d {shape} {name_of(dtype)}",
                partial(check_deform_conv, shape=shape, dtype=dtype, **where),
                20,
            )
            for dtype in types
            for shape in SHAPES
        ),
        step(types[0], False, 40),
        *(
            Check(f"activated norm {name_of(t)}", partial(check_norm, dtype=t, **where), 20)
            for t in types[:2]
        ),
        *(Check(f"R-50-FPN {name_of(t)}", partial(check_backbone, dtype=t, **where), 30) for t in types[:2]),
        *([] if rehearse else [step(torch.float32, False, 40)]),
        step(types[0], True, 120),
    ]
    return run_lanes(args, {"benchmarks": checks})


if __name__ == "__main__":
    sys.exit(main())
