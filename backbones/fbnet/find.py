"""Finding an architecture: inline, a file, a folder of files, or a name that ships or comes with a plugin."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from backbones.fbnet.arch import Architecture, parse_architecture
from backbones.fbnet.arch_file import Source, inline_source, read_source
from registry import FBNET_ARCHS, NECKS, Config, ConfigError, UnknownNameError, parse_conv_body, source_of
from registry.config import is_default
from registry.errors import describe_key, nearest_phrase, source_phrase

ARCH, ARCH_DEF, ARCH_DIRS = "MODEL.FBNET.ARCH", "MODEL.FBNET.ARCH_DEF", "MODEL.FBNET.ARCH_DIRS"
CONV_BODY = "MODEL.BACKBONE.CONV_BODY"
PREFIX = "FBNet-"


def architecture_of(cfg: Config) -> Architecture:
    """The architecture of ``cfg``: that of the name FBNet-<architecture>, of MODEL.FBNET.ARCH otherwise.

    Raises:
        UnknownNameError: nothing is called so.
        ConfigError: it cannot be built, two different ones are called so, or two names are given.
    """
    body = parse_conv_body(cfg.MODEL.BACKBONE.CONV_BODY).body
    if not body.startswith(PREFIX):
        return find_architecture(cfg.MODEL.FBNET.ARCH, cfg, ARCH)
    name = body.removeprefix(PREFIX)
    if not is_default(cfg, ARCH) and name != cfg.MODEL.FBNET.ARCH:
        raise ConfigError(f"{body} is another architecture; name it once", ARCH, cfg)
    return find_architecture(name, cfg, CONV_BODY)


def find_architecture(name: str, cfg: Config, key: str = ARCH) -> Architecture:
    """The architecture called ``name``, a path or a name; ``key`` of ``cfg`` says so, for messages.

    Raises:
        UnknownNameError: nothing is called so.
        ConfigError: it cannot be built, or two different ones are called so.
    """
    title = Path(name).stem if _is_path(name) else name
    found = [parse_architecture(each.definition, title, each.where) for each in _sources(name, cfg, key)]
    if not found:
        known = {*FBNET_ARCHS.names(), *(path.stem for folder in _folders(cfg) for path in _files(folder))}
        raise UnknownNameError(
            f"no FBNet architecture is called {name!r} ({describe_key(cfg, key)})"
            f"{nearest_phrase(name, known)}; list all: {FBNET_ARCHS.listing}"
            + (f"; necks: {', '.join(NECKS.names())}" if "-" in name else "")
        )
    for other in found[1:]:
        if other != found[0]:
            raise ConfigError(
                f"two architectures are called {name!r} and differ, at {found[0].where} and at "
                f"{other.where}; rename one"
            )
    return found[0]


def _sources(name: str, cfg: Config, key: str) -> Iterator[Source]:
    """Everything that is called ``name``."""
    inline = cfg.MODEL.FBNET.ARCH_DEF
    if inline:
        yield inline_source(_from_json(inline, cfg), f"{ARCH_DEF}, {source_phrase(source_of(cfg, ARCH_DEF))}")
    if _is_path(name):
        yield read_source(_locate(name, cfg, key))
        return
    for folder in _folders(cfg):
        for path in _files(folder):
            if path.stem == name:
                yield read_source(path)
    if name in FBNET_ARCHS:
        known = FBNET_ARCHS[name]
        yield (
            inline_source(known, f"entry {name!r}")
            if isinstance(known, Mapping)
            else read_source(Path(known))
        )


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _from_json(text: str, cfg: Config) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = source_phrase(source_of(cfg, ARCH_DEF))
        raise ConfigError(
            f"{ARCH_DEF} ({where}) is not JSON: {error.msg} at character {error.pos + 1}"
        ) from error


def _folders(cfg: Config) -> list[Path]:
    names = cfg.MODEL.FBNET.ARCH_DIRS
    if not all(isinstance(name, str) for name in names):
        raise ConfigError("folders are given by their paths", ARCH_DIRS, cfg)
    return [_locate(name, cfg, ARCH_DIRS) for name in names]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))


def _locate(name: str, cfg: Config, key: str) -> Path:
    """A path that ``load_cfg`` found beside the config file or in the working directory."""
    path = Path(name)
    if not path.exists():
        raise ConfigError(
            f"{name} does not exist, neither beside the config file nor at {path.absolute()}", key, cfg
        )
    return path
