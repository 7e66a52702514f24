"""Code from outside: entry points of installed distributions, and modules or files named in a config."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from registry.errors import ConvbodyError, PluginError, in_one_line
from registry.paths import expand, found_at, places

GROUP_PREFIX = "convbody."


@dataclass(frozen=True)
class EntryPoint:
    """One entry point of an installed distribution: ``name = target`` in a ``convbody.*`` group."""

    name: str
    target: str
    distribution: str

    @property
    def where(self) -> str:
        """For messages: the distribution with its version, and what the entry point refers to."""
        return f"distribution {self.distribution} (entry point {self.target})"


@cache
def _installed() -> dict[str, list[EntryPoint]]:
    """Every ``convbody.*`` entry point of this environment by group, each distribution read once."""
    groups: dict[str, list[EntryPoint]] = {}
    seen: set[str] = set()
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name is None or name in seen:  # the first on sys.path is the one that imports
            continue
        seen.add(name)
        for point in distribution.entry_points:
            if point.group.startswith(GROUP_PREFIX):
                owner = f"{name} {distribution.version}"
                groups.setdefault(point.group, []).append(EntryPoint(point.name, point.value, owner))
    return groups


def entry_points(group: str) -> list[EntryPoint]:
    """The entry points of one group."""
    return _installed().get(group, [])


@cache
def load_plugin_modules() -> None:
    """Imports the entry points that name a whole module, which may register any number of names.

    Done once, and only when a name was not found otherwise. One that fails is reported; the rest still load.
    """
    for points in _installed().values():
        for point in points:
            if ":" in point.target:
                continue
            try:
                import_module(point.target)
            except (Exception, SystemExit) as error:
                warnings.warn(
                    f"plugin {point.where} fails to import and is left out: {in_one_line(error)}",
                    stacklevel=2,
                )


def load_plugins(names: Iterable[str], origin: str, folder: Path | None = None) -> None:
    """Imports each plugin of a ``PLUGINS`` list, so that its decorators run.

    A name is an importable module, or a path to a ``.py`` file, looked for beside the config (``folder``)
    and then in the working directory. Loading a plugin twice does nothing.

    Raises:
        PluginError: no such file or module, or it fails to import.
    """
    for name in names:
        try:
            if name.endswith(".py"):
                _load_file(_locate(name, folder, origin))
            elif all(part.isidentifier() for part in name.split(".")):
                _import_from_here(name)
            else:
                raise PluginError(f"plugin {name!r} ({origin}) is neither a module name nor a .py file")
        except ConvbodyError:
            raise
        except (Exception, SystemExit) as error:  # a script without a main guard exits
            raise PluginError(f"plugin {name!r} ({origin}) fails to import: {in_one_line(error)}") from error


def _locate(name: str, folder: Path | None, origin: str) -> Path:
    path = expand(name, f"plugin {name!r} ({origin})")
    found = found_at(path, folder)
    if found is None or not found.is_file():
        looked = ", ".join(str(place.absolute()) for place in places(path, folder))
        raise PluginError(f"plugin {name!r} ({origin}) does not exist; looked for {looked}")
    return found


def _load_file(path: Path) -> None:
    # The path is part of the name: two files called model.py are two plugins.
    name = f"convbody_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _import_from_here(name: str) -> None:
    """Imports a module by name, the working directory included, as ``python -m`` would."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        import_module(name)
    finally:
        if added:
            sys.path.remove(here)
