"""From a data set's name to its image folder and annotation file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from convbody.data.errors import DataError
from convbody.data.files import ROOT_VARIABLE, datasets_root
from registry import Config, ConfigError
from registry.errors import nearest_phrase

_FIELDS = {"image_dir", "ann_file"}


@dataclass(frozen=True)
class Entry:
    """Where one data set lies."""

    name: str
    image_dir: Path
    ann_file: Path


def catalog(cfg: Config) -> dict[str, Entry]:
    """Every data set known by name: the shipped ones, and over them those of DATASETS.CATALOG.

    Raises ConfigError where an entry of DATASETS.CATALOG has other fields than ``image_dir`` and
    ``ann_file``.
    """
    shipped = yaml.safe_load(files(__package__).joinpath("catalog.yaml").read_text(encoding="utf-8"))
    for name, fields in cfg.DATASETS.CATALOG.items():
        if not isinstance(fields, Mapping) or set(fields) != _FIELDS:
            raise ConfigError(
                f"data set {name!r} needs the two fields image_dir and ann_file",
                key="DATASETS.CATALOG",
                cfg=cfg,
            )
    return {name: _entry(name, fields) for name, fields in {**shipped, **cfg.DATASETS.CATALOG}.items()}


def find_dataset(cfg: Config, name: str, key: str = "DATASETS.TEST") -> Entry:
    """The entry called ``name``; its folder and file exist.

    ``key`` is the config key that holds the name, for the error. Raises ConfigError for an unknown name and
    DataError for a folder or file that is not there.
    """
    entries = catalog(cfg)
    if name not in entries:
        raise ConfigError(
            f"no data set is called {name!r}{nearest_phrase(name, entries)}; "
            "`python tools/prepare_data.py list` lists all, DATASETS.CATALOG adds others",
            key=key,
            cfg=cfg,
        )
    entry = entries[name]
    for what, path, exists in (
        ("annotation file", entry.ann_file, entry.ann_file.is_file()),
        ("image folder", entry.image_dir, entry.image_dir.is_dir()),
    ):
        if not exists:
            raise DataError(f"data set {name!r}: no {what} at {path.absolute()}; {_remedy(name)}")
    return entry


def _entry(name: str, fields: Mapping[str, Any]) -> Entry:
    # An absolute path replaces the root.
    root = datasets_root()
    return Entry(name, root / str(fields["image_dir"]), root / str(fields["ann_file"]))


def _remedy(name: str) -> str:
    made, _, _ = name.rpartition("_")
    if made in ("trees", "synthetic"):
        return f"make it with `python tools/prepare_data.py {made}`, or set {ROOT_VARIABLE} to where it is"
    return f"set {ROOT_VARIABLE} to the folder that holds the data sets, or the path in DATASETS.CATALOG"


def labels_by_id(cfg: Config) -> bool:
    """Whether labels are the category ids, as DATASETS.LABELS says.

    Raises:
        ConfigError: it says neither this nor the other.
    """
    if cfg.DATASETS.LABELS not in ("consecutive", "category_id"):
        raise ConfigError(
            f"choose consecutive or category_id, not {cfg.DATASETS.LABELS!r}", "DATASETS.LABELS", cfg
        )
    return bool(cfg.DATASETS.LABELS == "category_id")
