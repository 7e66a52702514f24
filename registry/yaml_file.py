"""A config file as a tree of values that know their line, with its ``_BASE_`` files before it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from registry.errors import ConfigError

BASE_KEY = "_BASE_"
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
    return list(_chain(Path(path), ()))


def _chain(path: Path, inside: tuple[Path, ...], named_at: str = "") -> Iterator[Located]:
    resolved = path.resolve()
    if resolved in inside:
        raise ConfigError(f"{BASE_KEY} files form a circle: {' -> '.join(map(str, (*inside, resolved)))}")
    tree = _read(path, named_at)
    base = tree.value.pop(BASE_KEY, None)
    if base is not None:
        names = [base.value] if isinstance(base.value, str) else base.value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"{BASE_KEY} at {base.where} must be a path or a list of paths, not {names!r}")
        for name in names:
            yield from _chain(path.parent / name, (*inside, resolved), f" ({BASE_KEY} at {base.where})")
    yield tree


def _read(path: Path, named_at: str) -> Located:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"config file {path}{named_at} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {path}{named_at} is not UTF-8 text") from error
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            _refuse_circles(node, path, (), set())
        tree = _located(loader, node, path) if node is not None else Located(None, path, 1)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark is not None else 1
        raise ConfigError(f"{path}:{line} is not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    if tree.value is None:  # nothing but comments, or a bare ---
        return Located({}, path, 1)
    if not isinstance(tree.value, dict):
        raise ConfigError(f"{path} must hold a mapping of config keys, not {type(tree.value).__name__}")
    return tree


def _refuse_circles(node: yaml.Node, path: Path, inside: tuple[yaml.Node, ...], seen: set[yaml.Node]) -> None:
    """Raises ConfigError where an alias stands inside the node that it refers to."""
    if node in inside:
        raise ConfigError(f"{path}:{node.start_mark.line + 1}: what begins here holds an alias of itself")
    if node in seen or not isinstance(node, yaml.CollectionNode):
        return
    seen.add(node)
    for child in node.value:
        for part in child if isinstance(child, tuple) else (child,):  # a mapping has pairs
            _refuse_circles(part, path, (*inside, node), seen)


def _located(loader: yaml.SafeLoader, node: yaml.Node, path: Path) -> Located:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        return Located(loader.construct_object(node, deep=True), path, line)
    loader.flatten_mapping(node)  # YAML's own "<<" merge keys
    children: dict[str, Located] = {}
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node))
        place = Located(None, path, key_node.start_mark.line + 1)
        if key in children:  # in published files, too; as YAML readers do, the last counts
            logger.warning("%s: %s replaces the one at %s whole", place.where, key, children[key].where)
        child = _located(loader, value_node, path)
        children[key] = Located(child.value, path, place.line)
    return Located(children, path, line)
