"""The config tree: a yacs node that knows where each value was set."""

from __future__ import annotations

from typing import Any

import yaml
from yacs.config import CfgNode


class Config(CfgNode):
    """A yacs ``CfgNode`` that remembers where each value was set (see :func:`source_of`)."""

    @property
    def sources(self) -> dict[str, str]:
        """Dotted key -> "file:line" or "command line"; keys left at their default are absent."""
        # yacs routes attribute assignment into the mapping, so the record lives in __dict__.
        return self.__dict__.setdefault("_sources", {})

    def dump(self) -> str:
        """The tree as YAML that ``load_cfg`` reads back, every value written out where it stands."""
        return yaml.dump(yaml.safe_load(super().dump()), Dumper=_WithoutAnchors)


class _WithoutAnchors(yaml.SafeDumper):
    """Defaults share objects; "&id001" and "*id001" would be all that a reader saw of them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value at a dotted key."""
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    return node


def source_of(cfg: CfgNode, key: str) -> str:
    """Where the value at a dotted key was set: "file:line", "command line" or "default".

    A key inside a mapping that was set whole has the source of the mapping, and a mapping that of the first
    key set inside it.
    """
    sources = getattr(cfg, "sources", {})
    inside = next((where for name, where in sources.items() if name.startswith(f"{key}.")), "default")
    while key:
        if key in sources:
            return str(sources[key])
        key = key.rpartition(".")[0]
    return str(inside)
