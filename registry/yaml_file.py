"""A config file as a tree of values that know their line, with its ``_BASE_`` files before it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from registry.errors import ConfigError
from registry.paths import expand
from registry.safe_yaml import construct, parse_yaml

BASE_KEY = "_BASE_"
_MOST_BASES = 50  # files, each named by the one before
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Located:
    """A value of a YAML file and its place. A mapping holds Located values by key, anything else plain
    data.
    """

    value: Any
    file: Path
    line: int

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def child(self, *keys: str) -> Located | None:
        """The value under nested keys, or None."""
        node: Located | None = self
        for key in keys:
            node = node.value.get(key) if node is not None and isinstance(node.value, dict) else None
        return node

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        return self.value


def read_chain(path: str | Path) -> list[Located]:
    """The file's tree, after those of its ``_BASE_`` files (paths relative to the file), bases first.

    Raises:
        ConfigError: no such file, not YAML, or bases or aliases that form a circle.
    """
    given = Path(path)  # from a shell, which has expanded it, or from Python, where nothing has
    return list(_chain(given if os.path.lexists(given) else Path(expand(str(path), "the config file")), ()))


def _chain(path: Path, inside: tuple[str, ...], named_at: str = "") -> Iterator[Located]:
    tree = _read(path, named_at)
    resolved = os.path.realpath(path)
    if resolved in inside:
        raise ConfigError(f"{BASE_KEY} files form a circle: {' -> '.join((*inside, resolved))}")
    if len(inside) > _MOST_BASES:
        raise ConfigError(
            f"{path}{named_at}: over {_MOST_BASES} {BASE_KEY} files, each named by the one before"
        )
    base = tree.value.pop(BASE_KEY, None)
    if base is not None:
        names = [base.value] if isinstance(base.value, str) else base.value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"{BASE_KEY} at {base.where} must be a path or a list of paths, not {names!r}")
        for name in names:
            base_file = path.parent / expand(name, f"{BASE_KEY} at {base.where}")
            yield from _chain(base_file, (*inside, resolved), f" ({BASE_KEY} at {base.where})")
    yield tree


def _read(path: Path, named_at: str) -> Located:
    loader, node = parse_yaml(path, named_at=named_at)
    tree = _located(loader, node, path) if node is not None else Located(None, path, 1)
    if tree.value is None:  # nothing but comments, or a bare ---
        return Located({}, path, 1)
    if not isinstance(tree.value, dict):
        raise ConfigError(f"{path} must hold a mapping of config keys, not {type(tree.value).__name__}")
    return tree


def _located(loader: yaml.SafeLoader, node: yaml.Node, path: Path) -> Located:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        return Located(construct(loader, node, path), path, line)
    try:
        loader.flatten_mapping(node)  # YAML's own "<<" merge keys
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{path}:{line} is not valid YAML: {error.problem}") from error
    children: dict[str, Located] = {}
    for key_node, value_node in node.value:
        key = str(construct(loader, key_node, path))
        place = Located(None, path, key_node.start_mark.line + 1)
        if key in children:  # in published files, too; as YAML readers do, the last counts
            logger.warning("%s: %s replaces the one at %s whole", place.where, key, children[key].where)
        child = _located(loader, value_node, path)
        children[key] = Located(child.value, path, place.line)
    return Located(children, path, line)
