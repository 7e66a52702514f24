"""Setting config values strictly: a key must exist and a value must be of the default's type."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any

from yacs.config import CfgNode

from registry.config import JSON_KEYS
from registry.errors import ConfigError, UnknownKeyError, nearest_phrase, source_phrase
from registry.tree import Config
from registry.yaml_file import Located

LISTING = "python -m registry config"


def merge_tree(cfg: Config, tree: Located) -> None:
    """Merges a config file's tree into ``cfg``; see :func:`read_chain <registry.yaml_file.read_chain>`."""
    _merge_mapping(cfg, cfg, tree, "")


def _merge_mapping(root: Config, node: Config, tree: Located, prefix: str) -> None:
    for name, child in tree.value.items():
        key = f"{prefix}{name}"
        if isinstance(node.get(name), CfgNode):
            if not isinstance(child.value, dict):
                raise ConfigError(
                    f"{key} at {child.where} is a section and takes a mapping of keys, not {child.value!r}"
                )
            _merge_mapping(root, node[name], child, f"{key}.")
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
    *path, leaf = key.split(".")
    node: Any = cfg
    for part in path:
        if isinstance(node, CfgNode) and part not in node and node.is_new_allowed():
            node[part] = Config(new_allowed=True)
        node = node.get(part) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or (leaf not in node and not node.is_new_allowed()):
        raise UnknownKeyError(
            f"unknown config key {key} ({source_phrase(source)}){nearest_phrase(key, dotted_keys(cfg))}; "
            f"list all: {LISTING}"
        )
    free_form = node.get(leaf)
    if isinstance(free_form, CfgNode) and free_form.is_new_allowed():
        inside = _literal(value)
        if not isinstance(inside, dict):
            raise ConfigError(f"{key} ({source_phrase(source)}) takes a mapping, not {value!r}")
        for name, item in inside.items():
            assign(cfg, f"{key}.{name}", item, source)
        return
    if key in JSON_KEYS and isinstance(value, dict):
        value = json.dumps(value)
    if node.is_new_allowed():
        node[leaf] = Config(value, new_allowed=True) if isinstance(value, dict) else _literal(value)
    else:
        node[leaf] = coerce(key, value, node[leaf], source)
    cfg.sources[key] = source


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
            f"{key} ({source_phrase(source)}) takes {_expected(default)}, such as {default!r}, not {value!r}"
        )
    return value


def _literal(value: Any) -> Any:
    """Text that is a Python literal as that literal, anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
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
