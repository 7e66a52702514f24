"""``Registry[T]``: names that stand for things, loaded only when asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any, Generic, TypeVar, overload

from registry.errors import (
    ConvbodyError,
    DuplicateNameError,
    PluginError,
    UnknownNameError,
    in_one_line,
    nearest_phrase,
)
from registry.plugins import EntryPoint, entry_points, load_plugin_modules
from registry.source import Found, find_object, find_target

T = TypeVar("T")
U = TypeVar("U")
_NOTHING: Any = object()  # no value, where None is one

#: Every registry with an entry-point group, by the last part of the group's name.
REGISTRIES: dict[str, Registry[Any]] = {}


@dataclass
class _Entry(Generic[T]):
    """One name: an object, or the ``"module:attribute"`` that gives it when first asked for."""

    where: str
    package: str  # the top-level package that fills the name
    value: T | Any = _NOTHING
    target: str | None = None
    distribution: str | None = None
    rival: str | None = None  # where a second, conflicting entry point comes from
    alias_of: str | None = None


class Registry(Generic[T]):
    """Maps names to things of one kind.

    Three ways in: :meth:`register` (a decorator, or a call with the object last), :meth:`lazy` (a module
    that is imported when the name is first used) and, with ``group``, the entry points of installed
    distributions. A lazy or entry-point name may end in ``*``: it then serves every name that the pattern
    matches.

    Args:
        kind: what the things are, for messages: "norm", "backbone body".
        group: entry-point group read from installed distributions, e.g. ``"convbody.norms"``; its last part
            is the name under which ``python -m registry`` lists the registry.
        listing: the command that lists every name, for messages, where it is another one.
    """

    def __init__(self, kind: str, group: str | None = None, listing: str | None = None) -> None:
        self.kind = kind
        self.group = group
        self.listing = listing
        if group is not None:
            short = group.rpartition(".")[2]
            self.listing = listing or f"python -m registry {short}"
            REGISTRIES[short] = self
        self._entries: dict[str, _Entry[T]] = {}
        self._listed_by: dict[str, str] = {}
        self._entry_points_read = group is None

    @overload
    def register(self, name: str, *, aliases: Sequence[str] = ()) -> Callable[[U], U]: ...
    @overload
    def register(self, name: str, thing: U, *, aliases: Sequence[str] = ()) -> U: ...

    def register(self, name: str, thing: Any = _NOTHING, *, aliases: Sequence[str] = ()) -> Any:
        """Adds ``thing``, of any type, under ``name`` and ``aliases``, and gives it back.

        Without ``thing`` it is a decorator: ``@REG.register("a", aliases=["alias"])``.

        Raises:
            DuplicateNameError: a name is taken; names both places.
            TypeError: no name is given, as by ``@REG.register`` without parentheses.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(f"a {self.kind} is registered under a name, as in register('name'), not {name!r}")
        frame = sys._getframe(1)
        module, where = frame.f_globals.get("__name__", ""), f"{frame.f_code.co_filename}:{frame.f_lineno}"

        def add(added: Any) -> Any:
            self._add(name, tuple(aliases), added, module, where)
            return added

        return add if thing is _NOTHING else add(thing)

    def lazy(self, name: str, target: str, *aliases: str, names: str | None = None) -> None:
        """Adds ``name`` without importing anything.

        ``target`` is ``"package.module:attribute"``, or ``"package.module"`` for a module that registers
        the name itself when it is imported. ``names``, for a name that ends in ``*``, is the
        ``"package.module:function"`` that lists the names behind it.
        """
        frame = sys._getframe(1)
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        for each in (name, *aliases):
            self._refuse_duplicate(each, where)
        self._put(name, aliases, _Entry(where, _package(target), target=target))
        if names is not None:
            self._listed_by[name] = names

    def behind(self, name: str) -> list[str]:
        """The names that a name ending in ``*`` stands for, as far as they are known."""
        if name not in self._listed_by:
            return []
        module, _, function = self._listed_by[name].partition(":")
        return list(getattr(import_module(module), function)())

    def _add(self, name: str, aliases: tuple[str, ...], thing: Any, module: str, where: str) -> None:
        for each in (name, *aliases):
            if not self._awaits(each, module):
                self._refuse_duplicate(each, where)
        self._put(name, aliases, _Entry(where, _package(module), value=thing))

    def _put(self, name: str, aliases: tuple[str, ...], entry: _Entry[T]) -> None:
        self._entries[name] = entry
        for alias in aliases:
            self._entries[alias] = _Entry(entry.where, entry.package, alias_of=name)

    def _awaits(self, name: str, module: str) -> bool:
        """Whether ``name`` is lazy and waits for this module, of the package it points to, to fill it."""
        entry = self._entries.get(name)
        if entry is None or entry.target is None or entry.value is not _NOTHING:
            return False
        return entry.package == _package(module)

    def _refuse_duplicate(self, name: str, where: str) -> None:
        taken = self._entries.get(name)
        if taken is not None:
            raise DuplicateNameError(
                f"{self.kind} {name!r} is registered twice, at {taken.where} and at {where}; rename one"
            )

    def get(self, name: str, *, origin: str = "") -> T:
        """The thing called ``name``, imported now if it is lazy.

        ``origin`` says in the error where the name came from, e.g. ``"MODEL.FPN.NORM, set in a.yaml:3"``.

        Raises:
            UnknownNameError: no such name; says the nearest names and the command that lists all.
            PluginError: the name belongs to a distribution or module that fails to import.
            DuplicateNameError: two distributions claim the name.
        """
        return self._resolve(self._require(name, origin))

    def _require(self, name: str, origin: str = "") -> str:
        """The key of the entry that serves ``name``; plugin modules are imported before giving up."""
        key = self._match(name)
        if key is None:
            load_plugin_modules()
            key = self._match(name)
        if key is None:
            raise self._unknown(name, origin)
        return key

    def _unknown(self, name: str, origin: str = "") -> UnknownNameError:
        """The error for a name that is not here."""
        came_from = f" ({origin})" if origin else ""
        listing = f"; list all: {self.listing}" if self.listing else ""
        return UnknownNameError(
            f"no {self.kind} is called {name!r}{came_from}{nearest_phrase(name, self._all())}{listing}"
        )

    def __getitem__(self, name: str) -> T:
        return self.get(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._match(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def names(self, pattern: str = "*") -> list[str]:
        """The sorted names that match a shell pattern. Aliases are left out; nothing is imported."""
        return sorted(
            name
            for name, entry in self._all().items()
            if entry.alias_of is None and fnmatchcase(name, pattern)
        )

    def find(self, name: str) -> Found:
        """Where ``name`` is defined (file, line) and the first line of its docstring."""
        key = self._require(name)
        entry = self._target_entry(key)
        if entry.value is _NOTHING and entry.target is not None and entry.distribution is None:
            found = find_target(entry.target)
            if found is not None:
                return found
        return find_object(self._resolve(key), self._target_entry(key).where)

    def import_plugin(self, name: str) -> None:
        """Imports the distribution behind ``name``, for its config section; our own names stay lazy."""
        key = self._match(name)
        if key is not None and self._target_entry(key).distribution is not None:
            self._resolve(key)

    def _all(self) -> dict[str, _Entry[T]]:
        """Every entry, entry points included: they are read at the first look-up, never at import."""
        if not self._entry_points_read and self.group is not None:
            self._entry_points_read = True
            for point in entry_points(self.group):
                self._add_entry_point(point)
        return self._entries

    def _add_entry_point(self, point: EntryPoint) -> None:
        taken = self._entries.get(point.name)
        if taken is None:
            self._entries[point.name] = _Entry(
                point.where, _package(point.target), target=point.target, distribution=point.distribution
            )
        elif taken.package != _package(point.target):
            # Not raised here: a conflict over one name must not break the others.
            taken.rival = point.where

    def _match(self, name: str) -> str | None:
        entries = self._all()
        if name in entries:
            return name
        patterns = [key for key in entries if key.endswith("*") and fnmatchcase(name, key)]
        return max(patterns, key=len, default=None)

    def _target_entry(self, key: str) -> _Entry[T]:
        entry = self._entries[key]
        return entry if entry.alias_of is None else self._entries[entry.alias_of]

    def _resolve(self, key: str) -> T:
        entry = self._target_entry(key)
        if entry.rival is not None:
            raise DuplicateNameError(
                f"{self.kind} {key!r} is registered twice, at {entry.where} and by {entry.rival}; "
                "uninstall or rename one"
            )
        if entry.value is _NOTHING:
            value = self._load(key, entry)
            # The import may have run a decorator that filled this very name.
            entry = self._target_entry(key)
            if entry.value is _NOTHING:
                entry.value = value
        return entry.value

    def _load(self, key: str, entry: _Entry[T]) -> Any:
        assert entry.target is not None
        module_name, _, attribute = entry.target.partition(":")
        try:
            module = import_module(module_name)
            if attribute:
                return getattr(module, attribute)
        except ConvbodyError:
            raise
        except (Exception, SystemExit) as error:
            if entry.distribution is None:
                raise  # our own module: a bug here, whose traceback is wanted
            raise PluginError(
                f"{self.kind} {key!r} comes from {entry.where}, which fails to load: "
                f"{in_one_line(error)}; mend or uninstall that distribution"
            ) from error
        filled = self._target_entry(key).value
        if filled is _NOTHING:
            raise PluginError(
                f"importing {module_name} did not register {self.kind} {key!r}, as {entry.where} promises"
            )
        return filled


def _package(target: str) -> str:
    """The top-level package of "package.module" or "package.module:attribute"."""
    return target.partition(":")[0].partition(".")[0]
