"""Reads a detectron2 config: its ``_BASE_`` files, and the one Python expression its files use, evaluated
without Python's ``eval``.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from registry import ConfigError
from registry.safe_yaml import construct, parse_yaml

_BASE = "_BASE_"
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_LARGEST_EXPONENT = 16


def read_settings(path: str | Path) -> dict[str, Any]:
    """Dotted key -> value of a file and of what it names under ``_BASE_``; the file itself counts last.

    Raises:
        ConfigError: a file that cannot be read, and bases that form a circle.
    """
    return _flat(_read(Path(path), ()), "")


class _Loader(yaml.SafeLoader):
    """YAML's plain values, and ``!!python/object/apply:eval`` with lists of numbers."""


def _arithmetic(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    try:
        (text,) = loader.construct_sequence(node)  # type: ignore[arg-type]
        return _value(ast.parse(str(text), mode="eval").body, {})
    except (ValueError, TypeError, SyntaxError, ArithmeticError, yaml.YAMLError) as error:
        raise yaml.constructor.ConstructorError(
            None, None, "an expression that is more than lists of numbers; write its value", node.start_mark
        ) from error


_Loader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _arithmetic)


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """Numbers, lists, ``+ - * / **`` and ``[... for x in ...]``. Raises ValueError for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item, names) for item in node.elts]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left, names), _value(node.right, names)
        if not all(isinstance(side, int | float) for side in (left, right)):
            raise ValueError("arithmetic is for numbers")
        if isinstance(node.op, ast.Pow) and abs(right) > _LARGEST_EXPONENT:
            raise ValueError("too large an exponent")
        return _OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.ListComp) and len(node.generators) == 1:
        loop = node.generators[0]
        if isinstance(loop.target, ast.Name) and not loop.ifs:
            items = _value(loop.iter, names)
            return [_value(node.elt, {**names, loop.target.id: item}) for item in items]
    raise ValueError("not arithmetic")


def _read(path: Path, inside: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in inside:
        raise ConfigError(f"{_BASE} files form a circle: {' -> '.join(map(str, (*inside, resolved)))}")
    loader, node = parse_yaml(path, loader_class=_Loader)
    tree = construct(loader, node, path) if node is not None else None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping of config keys, not {type(tree).__name__}")
    base = tree.pop(_BASE, None)
    if base is None:
        return tree
    if not isinstance(base, str) or "://" in base:
        raise ConfigError(f"{_BASE} in {path} must be the path of a file, not {base!r}")
    return _merged(_read(path.parent / Path(base).expanduser(), (*inside, resolved)), tree)


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _flat(tree: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        flat.update(_flat(value, f"{key}.") if isinstance(value, dict) else {key: _literal(value)})
    return flat


def _literal(value: Any) -> Any:
    """Text such as "(640, 672)", which yacs reads as a tuple, as that."""
    if isinstance(value, str):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return value
