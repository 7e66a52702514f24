"""Setting config values strictly: a key must exist and a value must be of the default's type."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from registry.allowed import check_allowed
from registry.config import BESIDE_CONFIG, JSON_KEYS, PATH_KEYS
from registry.errors import ConfigError, UnknownKeyError, nearest_phrase, shown, source_phrase
from registry.paths import expand, found_at
from registry.tree import Config
from registry.yaml_file import Located

LISTING = "python -m registry config"


def merge_tree(cfg: Config, tree: Located) -> None:
    """Merges a config file's tree into ``cfg``; see :func:`read_chain <registry.yaml_file.read_chain>`."""
    _merge_mapping(cfg, cfg, tree, "")


def _merge_mapping(root: Config, node: CfgNode, tree: Located, prefix: str) -> None:
    for name, child in tree.value.items():
        key = f"{prefix}{name}"
        if node.is_new_allowed() and name not in node and isinstance(child.value, dict):
            node[name] = Config(new_allowed=True)
        if isinstance(node.get(name), CfgNode):
            if not isinstance(child.value, dict):
                raise ConfigError(
                    f"{key} at {child.where} is a section and takes a mapping of keys, "
                    f"not {shown(child.plain())}"
                )
            _merge_mapping(root, node[name], child, f"{key}.")
        elif node.is_new_allowed():
            _set_free(root, node, name, key, child.plain(), child.where)
        else:
            assign(root, key, child.plain(), child.where)


def merge_options(cfg: Config, options: Sequence[Any]) -> None:
    """Merges ``[KEY, VALUE, KEY, VALUE, ...]``, values as Python objects or as text.

    Raises:
        ConfigError: an odd count, an unknown key or a value of another type.
    """
    check_options(options)
    for key, value in zip(options[::2], options[1::2], strict=True):
        assign(cfg, key, value, "command line")


def check_options(options: Sequence[Any]) -> None:
    """Raises ConfigError unless ``options`` alternates between dotted keys and values."""
    if len(options) % 2:
        raise ConfigError(f"options come in pairs KEY VALUE, but {options[-1]!r} has no value")
    for key in options[::2]:
        if not isinstance(key, str):
            raise ConfigError(f"options come in pairs KEY VALUE, and {key!r} is no key")


def assign(cfg: Config, key: str, value: Any, source: str) -> None:
    """Sets one dotted ``key`` and records ``source``.

    Raises:
        UnknownKeyError: no such key.
        ConfigError: the value is not of the default's type.
    """
    node, leaf = _place(cfg, key)
    if node is None or (leaf not in node and not node.is_new_allowed()):
        raise UnknownKeyError(
            f"unknown config key {key} ({source_phrase(source)}){nearest_phrase(key, _known(cfg))}; "
            f"list all: {LISTING}"
        )
    free_form = node.get(leaf)
    if isinstance(free_form, CfgNode) and free_form.is_new_allowed():
        inside = _literal(value)
        if not isinstance(inside, dict):
            raise ConfigError(f"{key} ({source_phrase(source)}) takes a mapping, not {shown(value)}")
        for name, item in inside.items():
            _set_free(cfg, free_form, str(name), f"{key}.{name}", item, source)
        return
    if node.is_new_allowed():
        _set_free(cfg, node, leaf, key, value, source)
        return
    if key in JSON_KEYS and isinstance(value, dict):
        value = json.dumps(value)
    value = coerce(key, value, node[leaf], source)
    check_allowed(key, value, source)
    node[leaf] = _with_paths(key, value, source)
    cfg.sources[key] = source


def _place(cfg: Config, key: str) -> tuple[CfgNode | None, str]:
    """The node that holds ``key``, and its name there; None where a part of the way is no section.

    Names in a free-form mapping, such as those of data sets, may hold dots: of the names that are there, the
    longest that begins what is left of the key counts.
    """
    node: CfgNode = cfg
    rest = key
    while True:
        held = [name for name in node if rest == name or rest.startswith(f"{name}.")]
        name = max(held, key=len) if node.is_new_allowed() and held else rest.partition(".")[0]
        rest = rest[len(name) + 1 :]
        if not rest:
            return node, name
        if name not in node and node.is_new_allowed():
            node[name] = Config(new_allowed=True)
        child = node.get(name)
        if not isinstance(child, CfgNode):
            return None, name
        node = child


def _set_free(cfg: Config, node: CfgNode, name: str, key: str, value: Any, source: str) -> None:
    """Sets ``name`` of a node that takes any key; ``key`` is its whole dotted name."""
    if isinstance(value, dict):
        node[name] = Config(new_allowed=True)
        for inner, item in value.items():
            _set_free(cfg, node[name], str(inner), f"{key}.{inner}", item, source)
    elif _is_path(key):
        node[name] = _with_paths(key, str(value), source)
    else:
        node[name] = _plain(_literal(value), key, source)
    cfg.sources[key] = source


def _plain(value: Any, key: str, source: str) -> Any:
    """``value``, if it is something that a saved config can hold."""
    if isinstance(value, list | tuple):
        return type(value)(_plain(each, key, source) for each in value)
    if isinstance(value, dict):
        return {str(name): _plain(each, key, source) for name, each in value.items()}
    if not isinstance(value, str | int | float | None):
        raise ConfigError(
            f"{key} ({source_phrase(source)}) takes text, numbers, lists and mappings, not "
            f"{type(value).__name__} {value}; put text in quotes"
        )
    return value


def _is_path(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in PATH_KEYS)


def _with_paths(key: str, value: Any, source: str) -> Any:
    """``value`` with its paths filled in, where ``key`` holds paths; those beside a config absolute."""
    if not _is_path(key):
        return value
    if not isinstance(value, str):
        return type(value)(_with_paths(key, each, source) for each in value)
    path = expand(value, f"{key} ({source_phrase(source)})")
    if key in BESIDE_CONFIG and path.endswith(BESIDE_CONFIG[key] or ""):
        file, _, line = source.rpartition(":")
        found = found_at(path, Path(file).parent if line.isdigit() else None)
        return path if found is None else str(found)
    return path


def _known(cfg: Config) -> list[str]:
    """Every key and every section, for a misspelt one."""
    keys = dotted_keys(cfg)
    sections = {key[:end] for key in keys for end, letter in enumerate(key) if letter == "."}
    return keys + sorted(sections)


def dotted_keys(node: CfgNode, prefix: str = "") -> list[str]:
    """Every key of the tree, dotted."""
    keys: list[str] = []
    for name, value in node.items():
        if isinstance(value, CfgNode) and not value.is_new_allowed():
            keys += dotted_keys(value, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def coerce(key: str, value: Any, default: Any, source: str) -> Any:
    """``value`` as the type of ``default``: text is read as a Python literal, an int serves as a float,
    lists and tuples interchange. Numbers, truth values and strings inside a sequence must be of the
    default's kind.

    Raises:
        ConfigError: anything else; says the key, its source and what was expected.
    """
    if isinstance(default, CfgNode):
        raise ConfigError(
            f"{key} ({source_phrase(source)}) is a section; set one of its keys, such as "
            f"{', '.join(dotted_keys(default, key + '.')[:2])}"
        )
    if isinstance(default, bool) and value in ("true", "false"):
        value = value == "true"  # as YAML spells it
    elif not isinstance(default, str):
        value = _literal(value)
    if default is None or type(value) is type(default):
        fits = True
    elif isinstance(default, float) and type(value) is int:
        value, fits = float(value), True
    elif isinstance(default, list | tuple) and isinstance(value, list | tuple):
        value, fits = type(default)(value), True
    else:
        fits = False
    if fits and isinstance(value, list | tuple) and default:
        fits = _kinds(value) <= _kinds(default)
    if not fits:
        raise ConfigError(
            f"{key} ({source_phrase(source)}) takes {_expected(default)}, such as {shown(default)}, "
            f"not {shown(value)}"
        )
    return value


def _literal(value: Any) -> Any:
    """Text that is a Python literal as that literal, anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two: thousands of brackets
        return value


def _kinds(sequence: Any) -> set[str]:
    """The kinds of value in a nested sequence: "number", "bool", "str", ..."""
    kinds: set[str] = set()
    for item in sequence:
        if isinstance(item, list | tuple):
            kinds |= _kinds(item)
        elif isinstance(item, int | float) and not isinstance(item, bool):
            kinds.add("number")
        else:
            kinds.add(type(item).__name__)
    return kinds


def _expected(default: Any) -> str:
    names = {bool: "True or False", int: "an int", float: "a number", str: "a string"}
    if isinstance(default, list | tuple):
        inside = " and ".join(sorted(_kinds(default)))
        return f"a sequence of {inside}" if inside else "a sequence"
    return names.get(type(default), type(default).__name__)
