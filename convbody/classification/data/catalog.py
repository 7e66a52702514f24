"""From a data set's name to its layout and folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from convbody.data.files import datasets_root
from convbody.data.images import DEFAULT_RULES, ImageRules
from registry import Config, ConfigError
from registry.errors import nearest_phrase

#: Layout -> whether its files hold a training and a test split.
LAYOUTS = {"folder": False, "cifar10": True, "cifar100": True, "mnist": True, "fashion_mnist": True}
_KEY = "DATASETS.CLASSIFICATION_CATALOG"


@dataclass(frozen=True)
class Entry:
    """Where one data set lies, in which layout, and how its image files are read.

    ``split`` is "train", "test", or "" for a folder.
    """

    name: str
    layout: str
    root: Path
    split: str = ""
    rules: ImageRules = DEFAULT_RULES


def catalog(cfg: Config) -> dict[str, Entry]:
    """Every data set known by name: the shipped ones, and over them those of CLASSIFICATION_CATALOG.

    Raises:
        ConfigError: an entry has other fields, or an unknown layout or split.
    """
    shipped = yaml.safe_load(files(__package__).joinpath("catalog.yaml").read_text(encoding="utf-8"))
    entries = {**shipped, **cfg.DATASETS.CLASSIFICATION_CATALOG}
    return {name: _entry(name, fields, cfg) for name, fields in entries.items()}


def find_entry(cfg: Config, name: str, key: str) -> Entry:
    """The entry called ``name``; ``key`` is the config key that holds the name, for the error."""
    entries = catalog(cfg)
    if name not in entries:
        raise ConfigError(
            f"no data set of labelled images is called {name!r}{nearest_phrase(name, entries)}; "
            f"`python tools/prepare_data.py list` lists all, {_KEY} adds others",
            key,
            cfg,
        )
    return entries[name]


def _entry(name: str, fields: Any, cfg: Config) -> Entry:
    layout = fields.get("layout") if isinstance(fields, Mapping) else None
    if layout not in LAYOUTS:
        raise ConfigError(f"data set {name!r} needs a layout, one of {', '.join(LAYOUTS)}", _KEY, cfg)
    wanted = {"layout", "root", "split"} if LAYOUTS[layout] else {"layout", "root"}
    if set(fields) != wanted:
        raise ConfigError(
            f"data set {name!r} in layout {layout} needs {', '.join(sorted(wanted))}", _KEY, cfg
        )
    if LAYOUTS[layout] and fields["split"] not in ("train", "test"):
        raise ConfigError(f"the split of data set {name!r} must be train or test", _KEY, cfg)
    # An absolute path replaces the root.
    root = datasets_root() / str(fields["root"])
    return Entry(name, layout, root, str(fields.get("split", "")), ImageRules.of(cfg))
