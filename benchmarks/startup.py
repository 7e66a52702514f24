"""What an import costs beyond ``import torch``: ours, torchvision's, timm's, and a list of our names.

    python benchmarks/startup.py [--rounds 7]

Each statement runs in a Python of its own, on one thread, in turn; bytecode is cached before the first round
that counts. Seconds are user and system time of the whole process, Python's own start included; what is
beyond torch is the difference to ``import torch`` in the same round. Median, lower and upper quartile.
"""

from __future__ import annotations

import argparse

import measure

TORCH = "import torch"
STATEMENTS = {
    TORCH: TORCH,
    "import backbones": "import torch, backbones",
    "from backbones import build_backbone": "import torch; from backbones import build_backbone",
    "import torchvision": "import torch, torchvision",
    "import timm": "import torch, timm",
}
LIST = "tools/list_backbones.py"
REPORT = """
import json, resource
usage = resource.getrusage(resource.RUSAGE_SELF)
print()
print(json.dumps({"seconds": usage.ru_utime + usage.ru_stime}))
"""
RUN_LIST = f"""
import runpy, sys
sys.argv = [{LIST!r}]
try:
    runpy.run_path({LIST!r}, run_name="__main__")
except SystemExit:
    pass
"""


def programs() -> dict[str, list[str]]:
    """Name -> the program that reports the time it took."""
    found = {name: [f"{statement}\n{REPORT}"] for name, statement in STATEMENTS.items()}
    return found | {LIST: [RUN_LIST + REPORT]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="how often each statement runs (7)")
    args = parser.parse_args()
    print(measure.environment("torch", "torchvision", "timm"))
    rounds = measure.in_turn(programs(), args.rounds)
    print(f"{'':38} {'seconds':>24}  {'beyond import torch':>24}")
    for name in programs():
        seconds = [taken[name]["seconds"] for taken in rounds]
        beyond = [taken[name]["seconds"] - taken[TORCH]["seconds"] for taken in rounds]
        last = "" if name in (TORCH, LIST) else measure.quartiles(beyond)
        print(f"{name:38} {measure.quartiles(seconds):>24}  {last:>24}")


if __name__ == "__main__":
    main()
