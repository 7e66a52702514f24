"""Defaults, declared beside the code that reads them and assembled into one config tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any, TypeVar

from yacs.config import CfgNode

from registry.allowed import Allowed, declare
from registry.errors import ConfigError
from registry.tree import Config, value_of

Defaults = Mapping[str, Any]
SectionFunction = TypeVar("SectionFunction", bound=Callable[[], Defaults])


@dataclass(frozen=True)
class _Section:
    path: str
    defaults: Callable[[], Defaults]
    where: str


#: Dotted keys of JSON text; in a config such a text may stand as the mapping that it describes.
JSON_KEYS: set[str] = set()
#: Shell patterns of the dotted keys that hold a path, or a sequence of paths.
PATH_KEYS: set[str] = set()
#: Dotted key -> suffixes of the names that are files beside the config; () where every name is a path.
BESIDE_CONFIG: dict[str, tuple[str, ...]] = {}
_SECTIONS: dict[str, _Section] = {}  # by module and function, so that a reloaded module replaces its own
_FAMILY_DEFAULTS: dict[str, dict[str, Any]] = {}


def config_section(
    path: str,
    *,
    json_keys: Sequence[str] = (),
    paths: Sequence[str] = (),
    beside_config: Mapping[str, tuple[str, ...]] | None = None,
    allowed: Mapping[str, Allowed] | None = None,
) -> Callable[[SectionFunction], SectionFunction]:
    """Declares default keys under ``path`` ("MODEL.RESNETS", or "" for the top level).

    Decorates a function without arguments that gives a (nested) dict of defaults. Several functions may add
    keys to one path; a key given twice is an error that names both functions. A key whose default is
    ``Config(new_allowed=True)`` takes any mapping. The text of ``json_keys``, names of defaults, is JSON:
    such a key takes a mapping, too, and keeps it as text.

    ``paths`` are keys that hold a path, or patterns of keys inside a free-form mapping: ``~`` and
    ``$VARIABLES`` are replaced as the config is read. ``beside_config`` are keys whose paths may be relative
    to the config file that sets them. A file that exists is kept by its absolute path, so that a saved config
    means the same in every folder. Each has the suffixes that make a name a path; () makes every name one.
    ``allowed`` are the ranges and lengths of keys; a value outside is an error as the config is read.
    """
    beside_config = beside_config or {}
    declare(path, allowed or {})
    JSON_KEYS.update(_dotted(path, name) for name in json_keys)
    PATH_KEYS.update(_dotted(path, name) for name in (*paths, *beside_config))
    BESIDE_CONFIG.update({_dotted(path, name): suffixes for name, suffixes in beside_config.items()})

    def decorate(function: SectionFunction) -> SectionFunction:
        code = function.__code__
        section = _Section(path, function, f"{code.co_filename}:{code.co_firstlineno}")
        _SECTIONS[f"{function.__module__}.{function.__qualname__}"] = section
        return function

    return decorate


def family_defaults(pattern: str, defaults: Mapping[str, Any]) -> None:
    """Declares defaults for every CONV_BODY that matches a shell pattern ("FBNet*"), set before any file.

    ``defaults`` maps dotted keys to values. Where several patterns match, the longest has the last word.
    """
    _FAMILY_DEFAULTS.setdefault(pattern, {}).update(defaults)


def get_cfg(conv_body: str | None = None) -> Config:
    """The full tree of defaults, those of the family behind ``conv_body`` included (default: R-50-C4)."""
    from registry.builtin import CONFIG_MODULES

    for module in CONFIG_MODULES:
        import_module(module)
    cfg = Config()
    owners: dict[str, str] = {}
    for section in _SECTIONS.values():
        _insert(cfg, section.path, section.defaults(), section.where, owners)
    if conv_body is not None:
        cfg.MODEL.BACKBONE.CONV_BODY = conv_body
    _apply_family_defaults(cfg)
    return cfg


def is_default(cfg: Config, key: str) -> bool:
    """Whether the value at a dotted key is the default, of the family included.

    Values count, not whether a file names the key: a saved config names them all, and means what it was
    saved from.
    """
    return bool(value_of(cfg, key) == value_of(get_cfg(cfg.MODEL.BACKBONE.CONV_BODY), key))


def _dotted(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _insert(root: Config, path: str, defaults: Defaults, where: str, owners: dict[str, str]) -> None:
    """Puts ``defaults`` under the dotted ``path``; ``owners`` remembers who declared each key."""
    node: Any = root
    for part in path.split(".") if path else []:
        node = node.setdefault(part, Config())
    for name, value in defaults.items():
        key = _dotted(path, name)
        free_form = isinstance(value, CfgNode) and value.is_new_allowed()
        if isinstance(value, Mapping) and not free_form:
            _insert(root, key, value, where, owners)
        elif name in node:
            raise ConfigError(
                f"config key {key} is declared twice: at {owners.get(key, 'a section')} and at {where}"
            )
        else:
            node[name] = Config(dict(value), new_allowed=True) if free_form else value
            owners[key] = where


def _apply_family_defaults(cfg: Config) -> None:
    conv_body = cfg.MODEL.BACKBONE.CONV_BODY
    for pattern in sorted(_FAMILY_DEFAULTS, key=len):
        if not fnmatchcase(conv_body, pattern):
            continue
        for key, value in _FAMILY_DEFAULTS[pattern].items():
            path, _, leaf = key.rpartition(".")
            try:
                node = value_of(cfg, path) if path else cfg
                known = leaf in node
            except (KeyError, TypeError):
                known = False
            if not known:
                raise ConfigError(f"the defaults of {pattern!r} set {key}, which is no config key")
            node[leaf] = deepcopy(value)
