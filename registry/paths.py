"""Paths in a config: ``~`` and ``$VARIABLES``, and files that lie beside the config that names them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from registry.errors import ConfigError

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


def expand(path: str, named_by: str = "") -> str:
    """``path`` with a leading ``~`` or ``~user``, ``$NAME`` and ``${NAME}`` replaced by what they stand for.

    An address such as ``https://...`` stays as it is. ``named_by`` says in an error what holds the path.

    Raises:
        ConfigError: a variable that is not set, or a user that this machine does not have. Left as they are,
            such names would become folders called ``$SCRATCH`` or ``~``.
    """
    if "://" in path:
        return path
    subject = named_by or repr(path)

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in os.environ:
            raise ConfigError(f"{subject} names the environment variable {name}, which is not set: {path!r}")
        return os.environ[name]

    expanded = os.path.expanduser(_VARIABLE.sub(value, path))
    if expanded.startswith("~") and not os.path.lexists(expanded):
        raise ConfigError(f"{subject} begins with ~, and there is no such home folder: {path!r}")
    return expanded


def places(name: str, folder: Path | None) -> list[Path]:
    """Where a file that a config names may lie: in the config's ``folder``, then in the working directory."""
    return [Path(name)] if folder is None else [folder / name, Path(name)]


def found_at(name: str, folder: Path | None) -> Path | None:
    """The first of ``places`` that exists, absolute; None where nothing does."""
    return next((place.resolve() for place in places(name, folder) if place.exists()), None)
