"""What an import costs beyond ``import torch``: ours, torchvision's, timm's, and a list of our names.

    python benchmarks/startup.py [--rounds 7]

Each statement runs in a Python of its own, on one thread, in turn; bytecode is cached before the first round
that counts. Seconds are user and system time of the whole process, Python's own start included; what is
beyond torch is what is spent in it after ``import torch``. Median, lower and upper quartile.
"""

from __future__ import annotations

import argparse

import measure

TORCH = "import torch"
STATEMENTS = {
    TORCH: "",
    "import backbones": "import backbones",
    "from backbones import build_backbone": "from backbones import build_backbone",
    "import torchvision": "import torchvision",
    "import timm": "import timm",
}
LIST = "tools/list_backbones.py"
SPENT = """
import json, resource, runpy, sys
def spent():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
"""
RUN = f"""{SPENT}
import torch
before = spent()
exec(sys.argv[1])
print(json.dumps({{"seconds": spent(), "beyond": spent() - before}}))
"""
RUN_LIST = f"""{SPENT}
sys.argv = [{LIST!r}]
try:
    runpy.run_path({LIST!r}, run_name="__main__")
except SystemExit:
    pass
print()
print(json.dumps({{"seconds": spent()}}))
"""


def programs() -> dict[str, list[str]]:
    """Name -> the program, and its arguments, that reports the time it took."""
    found = {name: [RUN, statement] for name, statement in STATEMENTS.items()}
    return found | {LIST: [RUN_LIST]}


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
        beyond = [taken[name].get("beyond", 0.0) for taken in rounds]
        last = "" if name in (TORCH, LIST) else measure.quartiles(beyond, 3)
        print(f"{name:38} {measure.quartiles(seconds):>24}  {last:>24}")


if __name__ == "__main__":
    main()
