"""``load_cfg``: defaults, the family's defaults, the file with its bases, then the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from registry.config import get_cfg
from registry.conv_body import parse_conv_body
from registry.core import Registry
from registry.errors import ConfigError, describe_key, source_phrase
from registry.merge import check_options, coerce, merge_options, merge_tree
from registry.plugins import load_plugins
from registry.registries import BACKBONES, BODIES
from registry.tree import Config, value_of
from registry.yaml_file import Located, read_chain

CONV_BODY = "MODEL.BACKBONE.CONV_BODY"


def load_cfg(path: str | Path | None, opts: Sequence[Any] = (), plugins: Sequence[str] = ()) -> Config:
    """The config of a run.

    Args:
        path: a YAML file, which may name others under ``_BASE_``; None for the defaults.
        opts: ``[KEY, VALUE, ...]``, set last.
        plugins: modules or ``.py`` files to import first, beside those that ``PLUGINS`` names.

    CONV_BODY is read before anything is merged, so that the family or plugin behind it brings its own
    section and its own defaults; what the file or ``opts`` set then counts.

    Raises:
        ConfigError: an unknown key, a value of another type, an unreadable file; says key, file and line.
        UnknownNameError: CONV_BODY names nothing.
        PluginError: a plugin fails to import.
    """
    check_options(opts)
    trees = read_chain(path) if path is not None else []
    load_plugins(plugins, "--plugin")
    _load_named_plugins(trees, opts)

    name, source = _read_ahead(trees, opts, CONV_BODY, get_cfg().MODEL.BACKBONE.CONV_BODY)
    parsed = parse_conv_body(name, f"{CONV_BODY}, {source_phrase(source)}")
    registry: Registry[Any] = BACKBONES if parsed.whole else BODIES
    registry.import_plugin(parsed.body)

    cfg = get_cfg(name)
    for tree in trees:
        merge_tree(cfg, tree)
    merge_options(cfg, opts)
    return cfg


def lookup(registry: Registry[Any], cfg: Config, key: str) -> Any:
    """The thing in ``registry`` whose name is the value at ``key``; an unknown name is an error that gives
    the key, and the file and line that set it.
    """
    name = value_of(cfg, key)
    if not isinstance(name, str):
        raise ConfigError(f"the name of a {registry.kind} is a string", key, cfg)
    return registry.get(name, origin=describe_key(cfg, key))


def _load_named_plugins(trees: list[Located], opts: Sequence[Any]) -> None:
    for tree in trees:
        listed = tree.child("PLUGINS")
        if listed is not None:
            names = coerce("PLUGINS", listed.plain(), ("",), listed.where)
            load_plugins(names, f"PLUGINS, set in {listed.where}", listed.file.parent)
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        if key == "PLUGINS":
            load_plugins(coerce(key, value, ("",), "command line"), "PLUGINS, set on the command line")


def _read_ahead(trees: list[Located], opts: Sequence[Any], key: str, default: str) -> tuple[str, str]:
    """The string that ``key`` will have once all is merged, and its source."""
    value, source = default, "default"
    for tree in trees:
        found = tree.child(*key.split("."))
        if found is not None:
            value, source = coerce(key, found.plain(), default, found.where), found.where
    for option, option_value in zip(opts[::2], opts[1::2], strict=True):
        if option == key:
            value, source = coerce(key, option_value, default, "command line"), "command line"
    return value, source
