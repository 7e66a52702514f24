#!/usr/bin/env python
"""Searches an FBNet architecture for a device: measure blocks, train a supernet, derive an architecture.

python tools/search_fbnet.py latency --config-file C.yaml --output table.json [--device cpu] [--validate]
python tools/search_fbnet.py train --config-file C.yaml SEARCH.LATENCY.TABLE table.json [--resume]
python tools/search_fbnet.py derive --config-file C.yaml --name my_search_01 --hard
python tools/search_fbnet.py report --config-file C.yaml --searches runs/a runs/b --html search.html
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import convbody.starting  # noqa: F401 (first: it is for what comes after)
from convbody import cli
from registry import ConvbodyError


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
    if args.rounds < 1:
        raise ConvbodyError("--rounds takes 1 or more")
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
    parser.add_argument("--dry-run", action="store_true", help="check all that can be, train nothing")
    return parser


def train(args: argparse.Namespace) -> int:
    cfg = cli.load_config(args)
    if args.dry_run:
        from convbody.search.preflight import dry_run

        dry_run(cfg, resume=args.resume)
        return 0
    from convbody.search.train import search

    return search(cfg, resume=args.resume).exit_status


def derive_parser() -> argparse.ArgumentParser:
    parser = cli.common_parser("Writes architectures of the search in OUTPUT_DIR into MODEL.FBNET.ARCH_DIRS.")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--hard", action="store_true", help="the likeliest candidate of each layer")
    how.add_argument("--sample", type=int, metavar="N", help="N drawn ones; several are NAME_1, NAME_2, ...")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draws (0)")
    parser.add_argument("--name", required=True, help="of the file, and of the body: FBNet-NAME")
    return parser


def derive(args: argparse.Namespace) -> None:
    if args.sample is not None and args.sample < 1:
        raise ConvbodyError("--sample takes 1 or more")
    cfg = cli.load_config(args)
    from convbody.search import derive as home
    from convbody.search.latency import latencies
    from convbody.search.space import space_from_cfg

    space = space_from_cfg(cfg)
    for found in home.derive(cfg, args.name, samples=args.sample or 0, seed=args.seed):
        print(home.chart(space, latencies(cfg, space), found.choice))
        print(
            f"FBNet-{found.name}: expected {found.expected_us:.0f} us, measured {found.measured_us:.0f} us, "
            f"{found.gflops:.3f} GFLOPs, {found.parameters:,} parameters; {found.path}"
        )


def report_parser() -> argparse.ArgumentParser:
    parser = cli.common_parser("Trains what searches found, and random architectures as quick, into a page.")
    parser.add_argument(
        "--searches", nargs="+", required=True, metavar="DIR", help="OUTPUT_DIR of each search"
    )
    parser.add_argument("--random", type=int, default=5, metavar="N", help="random ones beside each (5)")
    parser.add_argument("--html", required=True, metavar="FILE", help="the page")
    return parser


def report(args: argparse.Namespace) -> None:
    if args.random < 1:
        raise ConvbodyError("--random takes 1 or more")
    cfg = cli.load_config(args)
    from convbody.search.compare import compare, verdict
    from convbody.search.page import write_page

    matches = compare(cfg, args.searches, args.random)
    write_page(cfg, args.searches, matches, Path(args.html))
    print(f"{verdict(matches)}\n{args.html}")


COMMANDS: dict[
    str, tuple[Callable[[], argparse.ArgumentParser], Callable[[argparse.Namespace], int | None]]
] = {
    "latency": (latency_parser, latency),
    "train": (train_parser, train),
    "derive": (derive_parser, derive),
    "report": (report_parser, report),
}


def main() -> int | None:
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        top = argparse.ArgumentParser(
            description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        top.add_argument("command", choices=COMMANDS, help="each has --help")
        top.parse_args(sys.argv[1:2])
    make_parser, command = COMMANDS[sys.argv[1]]
    parser = make_parser()
    parser.prog = f"search_fbnet.py {sys.argv[1]}"
    return command(cli.parse(parser, sys.argv[2:]))


if __name__ == "__main__":
    cli.run(main)
