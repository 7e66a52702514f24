"""Reading the definition of an architecture, and remembering the line of everything in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from registry import ConfigError
from registry.safe_yaml import construct, parse_yaml

_NESTED = "block_cfg"  # in the published form, all but the primitives stands below this key


@dataclass(frozen=True)
class Source:
    """A definition, ready for ``parse_architecture``, and the places of what is in it.

    Attributes:
        definition: the mapping.
        origin: the file, or where an inline definition was set.
        lines: path in the mapping -> line of the file; empty for an inline definition.
    """

    definition: Mapping[str, Any]
    origin: str
    lines: Mapping[tuple[Any, ...], int]

    def where(self, path: tuple[Any, ...]) -> str:
        """``file:line`` of the innermost part of ``path`` that is in the file, or the path itself."""
        if not self.lines:
            return f"{self.origin}, {'.'.join(map(str, path))}" if path else self.origin
        while path not in self.lines:
            path = path[:-1]
        return f"{self.origin}:{self.lines[path]}"


def read_source(path: Path) -> Source:
    """The definition in a YAML file.

    Raises:
        ConfigError: it cannot be read, is not YAML, is no mapping, or gives a key twice.
    """
    loader, node = parse_yaml(path, "architecture file")
    lines: dict[tuple[Any, ...], int] = {}
    definition = _plain(loader, node, (), lines, path)
    return Source(
        _flat(definition, str(path)), str(path), {_flat_path(at): line for at, line in lines.items()}
    )


def inline_source(definition: Any, origin: str) -> Source:
    """A definition that stands in a config or in Python; tuples count as lists.

    Raises:
        ConfigError: it is no mapping.
    """
    return Source(_flat(_with_lists(definition), origin), origin, {})


def _plain(
    loader: yaml.SafeLoader,
    node: yaml.Node | None,
    at: tuple[Any, ...],
    lines: dict[tuple[Any, ...], int],
    path: Path,
) -> Any:
    """The value of a node; ``lines`` gets the line of everything in it."""
    lines[at] = node.start_mark.line + 1 if node is not None else 1
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, child, at + (i,), lines, path) for i, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return construct(loader, node, path) if node is not None else None
    values: dict[Any, Any] = {}
    for key_node, child in node.value:
        key = construct(loader, key_node, path)
        if key in values:
            raise ConfigError(
                f"{path}:{key_node.start_mark.line + 1}: {key} is given twice, "
                f"first at line {lines[at + (key,)]}"
            )
        values[key] = _plain(loader, child, at + (key,), lines, path)
        lines[at + (key,)] = key_node.start_mark.line + 1
    return values


def _flat(definition: Any, origin: str) -> dict[str, Any]:
    """The definition with the published ``block_cfg`` taken away from around its keys."""
    nested = definition.get(_NESTED, {}) if isinstance(definition, dict) else None
    if not isinstance(nested, dict):
        raise ConfigError(f"an architecture is a mapping, and so is its {_NESTED} ({origin})")
    return {**{key: value for key, value in definition.items() if key != _NESTED}, **nested}


def _flat_path(path: tuple[Any, ...]) -> tuple[Any, ...]:
    return path[1:] if path[:1] == (_NESTED,) else path


def _with_lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_lists(child) for key, child in value.items()}
    return [_with_lists(child) for child in value] if isinstance(value, list | tuple) else value
