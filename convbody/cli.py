"""What the programs under tools/ share: the common arguments, and how an error reaches the user.

A tool is three steps, ``parse``, ``load_config``, one call, inside ``run(main)``::

    def main() -> None:
        args = parse(common_parser(__doc__))
        train_detector(load_config(args), resume=args.resume)

    if __name__ == "__main__":
        run(main)
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from convbody.allocator import keep_freed_memory
from registry import Config, ConvbodyError, load_cfg
from registry.program import status_of

_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")
_IMAGE_SUFFIXES = {".JPG", ".JPEG", ".PNG", ".BMP", ".TIF", ".TIFF", ".WEBP", ".GIF", ".PPM"}


def common_parser(description: str | None, before: str = "") -> argparse.ArgumentParser:
    """A parser of a program that runs a network, with ``--config-file``, ``--plugin`` (repeatable),
    ``--no-tune-malloc`` and ``KEY VALUE`` pairs (``opts``).

    ``before`` says what the program takes before the pairs, such as "IMAGE"; ``split_opts`` tells them apart.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", metavar="YAML", help="config file; without it, the defaults")
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE|FILE.py",
        help="a module or file whose registrations are loaded first (repeatable)",
    )
    parser.add_argument(
        "--no-tune-malloc",
        action="store_true",
        help="let glibc give the memory of large tensors back as they are freed: less memory, more time",
    )
    # What torch.distributed.launch adds; it sets LOCAL_RANK, too, which counts.
    parser.add_argument("--local-rank", "--local_rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "opts",
        nargs="*",
        metavar=f"{before}|KEY VALUE" if before else "KEY VALUE",
        help="config keys to change, by pairs" + (f"; after every {before}" if before else ""),
    )
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse ``argv`` (default: the command line); options may stand before, between or after the pairs.

    What follows ``--`` is no option, whatever it begins with, such as a file called ``-1.jpg``.
    From here on malloc keeps freed memory, but with ``--no-tune-malloc``, or for a parser without it.
    """
    words = [_protected(word) for word in (sys.argv[1:] if argv is None else argv)]
    takes_opts = any(action.dest == "opts" for action in parser._actions)
    # argparse itself refuses "--" between words and options.
    end = words.index("--") if takes_opts and "--" in words else len(words)
    args = parser.parse_intermixed_args(words[:end])
    if takes_opts:
        args.opts = [word.strip() if _is_negative(word) else word for word in (*args.opts, *words[end + 1 :])]
    if not getattr(args, "no_tune_malloc", True):
        keep_freed_memory()
    return args


def _protected(word: str) -> str:
    """A negative number with a space before it: argparse would take -1e-3 for an option."""
    return f" {word}" if _is_negative(word) else word


def _is_negative(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return word.lstrip().startswith("-")


def load_config(args: argparse.Namespace) -> Config:
    """The config that parsed common arguments ask for. Raises ConfigError for what it cannot accept."""
    return load_cfg(args.config_file, args.opts, plugins=args.plugin)


def split_opts(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split ``a.jpg b.jpg KEY VALUE ...`` into (``[a.jpg, b.jpg]``, ``[KEY, VALUE, ...]``).

    The pairs begin at the first word that is written like a config key (upper case, dotted) and is neither a
    file that exists nor named like an image.
    """
    for position, word in enumerate(words):
        path = Path(word)
        if _KEY.fullmatch(word) and path.suffix not in _IMAGE_SUFFIXES and not os.path.exists(word):
            return list(words[:position]), list(words[position:])
    return list(words), []


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call ``main`` and exit as :func:`registry.program.status_of` says.

    Started by torchrun, the process joins its group first.
    """

    def in_group() -> int | None:
        with _process_group():
            return main()

    sys.exit(status_of(in_group))


@contextmanager
def _process_group() -> Iterator[None]:
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    from convbody.training import distributed  # loads torch, which most programs do without

    distributed.init_from_env()
    try:
        yield
    except ConvbodyError as error:
        if distributed.is_told_by_main(error):
            sys.exit(2)
        raise
    except RuntimeError as error:
        if not distributed.is_lost_peer(error):
            raise
        raise ConvbodyError("another process of this run has ended; its output says why") from None
    # Not after an error: the others may be waiting for this process, and torchrun stops them.
    distributed.shutdown()
