#!/usr/bin/env python
"""Searches an FBNet architecture for a device: measure blocks, train a supernet, derive an architecture.

python tools/search_fbnet.py latency --config-file C.yaml --output table.json [--device cpu] [--validate]
    python tools/search_fbnet.py train --config-file C.yaml SEARCH.LATENCY.TABLE table.json [--resume]
"""

from __future__ import annotations

import argparse
import sys

from convbody import cli


def latency_parser() -> argparse.ArgumentParser:
    parser = cli.common_parser(
        "Measures every candidate of every layer; goes on with a table that a kill cut short."
    )
    parser.add_argument("--output", metavar="FILE", help="the table (SEARCH.LATENCY.TABLE)")
    parser.add_argument("--device", metavar="cpu|cuda", help="SEARCH.LATENCY.DEVICE")
    parser.add_argument("--threads", metavar="N", help="of the CPU (SEARCH.LATENCY.THREADS)")
    parser.add_argument("--batch", metavar="N", help="images (SEARCH.LATENCY.BATCH)")
    parser.add_argument(
        "--precision", metavar="DTYPE", help="float32, bfloat16, float16 (SEARCH.LATENCY.PRECISION)"
    )
    parser.add_argument("--size", metavar="PIXELS", help="side of the image (SEARCH.LATENCY.SIZE)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="times that each is measured (7)")
    parser.add_argument(
        "--validate",
        action="store_true",
        help="also measure 30 random networks, and compare them with their sums",
    )
    return parser


def latency(args: argparse.Namespace) -> None:
    for option, key in (
        ("output", "TABLE"),
        ("device", "DEVICE"),
        ("threads", "THREADS"),
        ("batch", "BATCH"),
        ("precision", "PRECISION"),
        ("size", "SIZE"),
    ):
        if getattr(args, option) is not None:
            args.opts += [f"SEARCH.LATENCY.{key}", getattr(args, option)]
    cfg = cli.load_config(args)
    from convbody.search.measure import measure_table, validate

    table = measure_table(cfg, args.rounds)
    spread = sum(map(table.spread, table.samples)) / len(table.samples)
    print(f"{len(table.samples)} entries in {cfg.SEARCH.LATENCY.TABLE}, {table.facts['timer']} on ", end="")
    print(f"{table.conditions['device_name']}; the middle half of the rounds spans {spread:.1%}")
    if args.validate:
        found = validate(cfg)
        print(
            f"{len(found.measured)} random networks: rank correlation {found.rank_correlation:.3f}, ", end=""
        )
        print(f"mean error {found.mean_error:.1%} with the constant {found.constant:.3f}")


def train_parser() -> argparse.ArgumentParser:
    parser = cli.common_parser("Trains the supernet and the choice among its candidates, into OUTPUT_DIR.")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    return parser


def train(args: argparse.Namespace) -> None:
    cfg = cli.load_config(args)
    from convbody.search.train import search

    search(cfg, resume=args.resume)


COMMANDS = {"latency": (latency_parser, latency), "train": (train_parser, train)}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        top = argparse.ArgumentParser(
            description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        top.add_argument("command", choices=COMMANDS, help="each has --help")
        top.parse_args(sys.argv[1:2])
    make_parser, command = COMMANDS[sys.argv[1]]
    parser = make_parser()
    parser.prog = f"search_fbnet.py {sys.argv[1]}"
    command(cli.parse(parser, sys.argv[2:]))


if __name__ == "__main__":
    cli.run(main)
