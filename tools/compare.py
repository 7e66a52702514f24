#!/usr/bin/env python
"""Proves a port: two models with the same weights and batch, and the first place where they part.

    python tools/compare.py --config-file a.yaml --against config:b.yaml [KEY VALUE ...]
    python tools/compare.py --config-file a.yaml --against torchvision:resnet50 --html compare.html
    python tools/compare.py --config-file a.yaml --against package.module:function --steps 3
    python tools/compare.py --config-file a.yaml --record traces/a   (then: --against trace:traces/a)

Weights, layers, loss, gradients and the weights after each step are compared, and each difference is held
against what float32 rounding explains. Exit status 0: the same within rounding; 1: they part.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import convbody.starting  # noqa: F401 (first: it is for what comes after)
from convbody import cli
from registry import ConvbodyError

PARTS = ("backbone", "classifier", "detector")


def parser() -> argparse.ArgumentParser:
    top = cli.common_parser(__doc__)
    top.add_argument(
        "--model",
        metavar="MODEL",
        help="rather than the config's model: torchvision:NAME, timm:NAME or package.module:function",
    )
    top.add_argument(
        "--against",
        metavar="MODEL",
        help="the other side: any of these, config:FILE.yaml or trace:DIR",
    )
    top.add_argument(
        "--against-opt",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a config key of the other side; its SOLVER keys are those of the config otherwise (repeatable)",
    )
    top.add_argument("--part", choices=PARTS, default="backbone", help="of the config")
    top.add_argument("--size", nargs=2, type=int, default=(64, 64), metavar=("H", "W"), help="pixels (64 64)")
    top.add_argument("--images", type=int, default=2, metavar="N", help="images in the batch (2)")
    top.add_argument("--steps", type=int, default=1, metavar="N", help="steps of the optimiser (1)")
    top.add_argument(
        "--own-weights",
        action="store_true",
        help="carry no weights over: each side keeps those that it is built with from SEED",
    )
    top.add_argument("--record", metavar="DIR", type=Path, help="write what is seen of the first side there")
    top.add_argument("--json", metavar="FILE", type=Path, help="write every place and its error there")
    top.add_argument("--html", metavar="FILE", type=Path, help="write a page with the error by depth there")
    return top


def main() -> int:
    args = cli.parse(parser())
    cfg = cli.load_config(args)
    if args.against is None and args.record is None:
        raise ConvbodyError("nothing to do: give --against MODEL, or --record DIR")
    changes = [part for option in args.against_opt for part in _pair(option)]
    from convbody.compare.run import Request, run

    request = Request(
        model=args.model or f"config:{args.config_file or ''}",
        against=args.against,
        changes=tuple(changes),
        part=args.part,
        size=tuple(args.size),
        images=args.images,
        steps=args.steps,
        own_weights=args.own_weights,
        record=args.record,
        json=args.json,
        html=args.html,
    )
    return run(cfg, request)


def _pair(option: str) -> tuple[str, str]:
    key, sign, value = option.partition("=")
    if not sign:
        raise ConvbodyError(f"--against-opt takes KEY=VALUE, not {option!r}")
    return key, value


if __name__ == "__main__":
    cli.run(main)
