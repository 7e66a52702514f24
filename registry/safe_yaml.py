"""Reading a YAML file that may hold anything: bounded in size and depth, every fault one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from registry.errors import ConfigError

_LARGEST = 16 << 20  # bytes; a published config has some thousands
_DEEPEST = 50  # levels of lists and mappings
_MOST_VALUES = 1_000_000


def parse_yaml(
    path: Path,
    what: str = "config file",
    named_at: str = "",
    loader_class: type[yaml.SafeLoader] = yaml.SafeLoader,
) -> tuple[yaml.SafeLoader, yaml.Node | None]:
    """The node that a YAML file holds (None: nothing), and the loader that ``construct`` takes for it.

    ``what`` and ``named_at`` stand before and behind its path in errors: "config file" and where it is named.

    Raises:
        ConfigError: no such file, not UTF-8, not YAML, an alias inside what it stands for, or more levels or
            values than any config has.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{what} {path}{named_at} cannot be read: {reason}") from error
    if len(content) > _LARGEST:
        raise ConfigError(f"{what} {path}{named_at} is larger than {_LARGEST >> 20} MiB; name a YAML file")
    try:
        loader = loader_class(content.decode("utf-8"))
        node = loader.get_single_node()
        if node is not None:
            _measure(node, path, (), {})
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} {path}{named_at} is not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise _not_yaml(error, path) from error
    except RecursionError as error:
        raise ConfigError(f"{path}: lists and mappings are nested too deeply for a config") from error
    return loader, node


def construct(loader: yaml.SafeLoader, node: yaml.Node, path: Path) -> Any:
    """What a node of the file at ``path`` stands for.

    Raises:
        ConfigError: nothing, such as the date 2024-13-45.
    """
    try:
        return loader.construct_object(node, deep=True)
    except yaml.YAMLError as error:
        raise _not_yaml(error, path) from error
    except Exception as error:  # PyYAML's constructors raise anything: KeyError for "!!bool x"
        text = node.value if isinstance(node.value, str) else "this"
        raise ConfigError(
            f"{path}:{node.start_mark.line + 1}: {text[:40]!r} is no valid value ({str(error)[:80]}); "
            "put text in quotes"
        ) from error


def _not_yaml(error: yaml.YAMLError, path: Path) -> ConfigError:
    if isinstance(error, yaml.MarkedYAMLError):
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        what = "cannot be read" if isinstance(error, ConstructorError) else "is not valid YAML"
        return ConfigError(f"{path}:{line} {what}: {error.problem}")
    return ConfigError(f"{path} is not valid YAML: {str(error).splitlines()[0]}")


def _measure(node: yaml.Node, path: Path, inside: tuple[yaml.Node, ...], sizes: dict[yaml.Node, int]) -> int:
    """The number of values in a node with its aliases written out; ``sizes`` keeps it for each node."""
    here = f"{path}:{node.start_mark.line + 1}"
    if node in inside:
        raise ConfigError(f"{here}: what begins here holds an alias of itself")
    if len(inside) > _DEEPEST:
        raise ConfigError(f"{here}: lists and mappings are nested too deeply for a config")
    if node not in sizes:
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
        sizes[node] = 1 + sum(_measure(part, path, (*inside, node), sizes) for part in parts)
        if sizes[node] > _MOST_VALUES:
            raise ConfigError(f"{here}: with its aliases written out, this has over {_MOST_VALUES:,} values")
    return sizes[node]
