"""``python -m registry [KIND] [PATTERN]``: lists what can be named in a config."""

from __future__ import annotations

import argparse
import sys
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any

from registry.builtin import REGISTRY_MODULES
from registry.config import get_cfg
from registry.core import REGISTRIES, Registry
from registry.errors import ConvbodyError
from registry.merge import dotted_keys
from registry.plugins import load_plugins
from registry.program import status_of
from registry.tree import value_of


def main(argv: list[str] | None = None) -> None:
    """Prints the names of one registry with their places, or the config keys with their defaults."""
    for module in REGISTRY_MODULES:
        import_module(module)
    parser = argparse.ArgumentParser(prog="python -m registry", description=main.__doc__)
    parser.add_argument("kind", nargs="?", choices=[*REGISTRIES, "config"], help="what to list")
    parser.add_argument("pattern", nargs="?", default="*", help="a shell pattern such as 'R-*'")
    parser.add_argument("--plugin", action="append", default=[], help="a module or .py file to import first")
    args = parser.parse_args(argv)
    load_plugins(args.plugin, "--plugin")
    if args.kind is None:
        for kind, registry in REGISTRIES.items():
            print(f"{kind:28} {len(registry):4} names")
        print(f"{'config':28} {len(dotted_keys(get_cfg())):4} keys")
    elif args.kind == "config":
        _print_config(args.pattern)
    else:
        _print_names(REGISTRIES[args.kind], args.pattern)


def _print_names(registry: Registry[Any], pattern: str) -> None:
    for name in registry.names(pattern):
        try:
            found = registry.find(name)
        except ConvbodyError as error:  # one broken plugin must not hide the other names
            print(f"{name:32} {error}")
        else:
            print(f"{name:32} {found}  {found.summary}")


def _print_config(pattern: str) -> None:
    cfg = get_cfg()
    for key in dotted_keys(cfg):
        if fnmatchcase(key, pattern):
            print(f"{key} = {value_of(cfg, key)!r}")


if __name__ == "__main__":
    sys.exit(status_of(main))
