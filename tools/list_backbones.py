"""List backbones: parameters, GFLOPs, strides and channels of the features, and where each is defined.

python tools/list_backbones.py                     every name, and where it is defined
python tools/list_backbones.py 'R-50*'             those, built and counted
python tools/list_backbones.py timm/resnet18-FPN --size 512 512 --json
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from typing import Any

import convbody.starting  # noqa: F401 (first: it is for what comes after)
from backbones.listing import backbone_names, defined_in
from convbody.cli import run
from registry import ConvbodyError
from registry.plugins import load_plugins


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument(
        "pattern", nargs="?", help="a name or a shell pattern; what matches is built and counted"
    )
    top.add_argument("--json", action="store_true", help="a JSON list rather than a table")
    top.add_argument(
        "--size", nargs=2, type=int, default=(224, 224), metavar=("H", "W"), help="image size (224 224)"
    )
    top.add_argument("--plugin", action="append", default=[], metavar="MODULE|FILE.py", help="import first")
    return top


def row(name: str, size: tuple[int, int] | None) -> dict[str, Any]:
    """One entry of the list; with ``size`` also what building tells."""
    entry: dict[str, Any] = {"name": name, "defined_in": shorter(defined_in(name))}
    if size is None or "*" in name:
        return entry
    from backbones.summary import summarise  # loads torch, which a list of names does without

    try:
        return entry | asdict(summarise(name, size))
    except ConvbodyError as error:  # one that cannot be built with defaults must not hide the others
        return entry | {"error": str(error)}


def shorter(place: str) -> str:
    """A path below the working directory, relative to it."""
    return place.removeprefix(os.getcwd() + os.sep)


def line(entry: dict[str, Any]) -> str:
    """One row of the table."""
    if "error" in entry:
        return f"{entry['name']:34} {entry['error']}"
    if "features" not in entry:
        return f"{entry['name']:34} {entry['defined_in']}"
    strides = ",".join(str(info["stride"]) for info in entry["features"])
    channels = ",".join(str(info["channels"]) for info in entry["features"])
    numbers = f"{entry['parameters'] / 1e6:9.2f} {entry['gflops']:8.2f}"
    return f"{entry['name']:34} {numbers}  {strides:18} {channels:26} {entry['defined_in']}"


def main() -> int:
    args = parser().parse_args()
    if min(args.size) < 1:
        raise ConvbodyError(f"--size takes two positive numbers, not {args.size[0]} and {args.size[1]}")
    load_plugins(args.plugin, "--plugin")
    names = backbone_names(args.pattern or "*")
    rows = [row(name, tuple(args.size) if args.pattern else None) for name in names]
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        if args.pattern:
            title = f"{'name':34} {'Mparams':>9} {'GFLOPs':>8}  {'strides':18} {'channels':26} defined in"
            print(title)
        for entry in rows:
            print(line(entry))
    return 2 if args.pattern and all("error" in entry for entry in rows) else 0


if __name__ == "__main__":
    run(main)
