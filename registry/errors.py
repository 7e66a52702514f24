"""The errors a user can act on: each is one line, says where, and says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from registry.tree import Config, source_of, value_of

_LONGEST = 200  # characters of a value in a message


class ConvbodyError(Exception):
    """Base of every error that a user can cause and mend. Programs print it as one line and exit with 2.

    ``details`` are for what has several parts: a line each below the first.
    """

    def __init__(self, *args: object, details: Iterable[str] = ()) -> None:
        super().__init__(*args)
        self.details = tuple(details)

    @property
    def message(self) -> str:
        """The first line."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        # KeyError, a second base of some subclasses, would print the repr of the message.
        return "\n  ".join((self.message, *self.details))


class UnknownNameError(ConvbodyError, KeyError):
    """A name that is in no registry; the message lists the nearest ones."""


class DuplicateNameError(ConvbodyError, ValueError):
    """A second registration of a name; the message gives both places."""


class PluginError(ConvbodyError, ImportError):
    """A plugin that fails to import; the message names its distribution or file."""


class ConfigError(ConvbodyError, ValueError):
    """A config value that cannot be used.

    ``key`` is the dotted config key; with ``cfg`` the message also says the value and where it was set.
    """

    def __init__(self, message: str, key: str | None = None, cfg: Config | None = None) -> None:
        if key is not None:
            message = f"{message} ({describe_key(cfg, key)})"
        super().__init__(message)


class UnknownKeyError(ConfigError, KeyError):
    """A config key that does not exist."""


def describe_key(cfg: Config | None, key: str) -> str:
    """``"KEY = value, set in file:line"``, or only the key where nothing more is known."""
    if cfg is None:
        return key
    return f"{key} = {shown(value_of(cfg, key))}, {source_phrase(source_of(cfg, key))}"


def shown(value: object) -> str:
    """``repr(value)``, its middle left out where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 4 :]}"


def in_one_line(error: BaseException) -> str:
    """The kind and the message of an error from elsewhere, whose message may have several lines."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def printable(text: str) -> str:
    """``text`` as one line of valid UTF-8, with escapes for what would break the line or move the cursor.

    A file's name need not be text; the bytes that are not are escaped, too.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def source_phrase(source: str) -> str:
    """``source`` as it reads in a sentence: "the default", "set on the command line", "set in FILE:LINE"."""
    if source == "default":
        return "the default"
    return "set on the command line" if source == "command line" else f"set in {source}"


def nearest(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """The ``count`` candidates closest in spelling to ``name``, case ignored, best first."""
    by_folded: dict[str, str] = {}
    for candidate in candidates:
        by_folded.setdefault(candidate.casefold(), candidate)
    close = difflib.get_close_matches(name.casefold(), by_folded, n=count, cutoff=0.5)
    return [by_folded[folded] for folded in close]


def nearest_phrase(name: str, candidates: Iterable[str]) -> str:
    """``"; nearest: A, B"``, or nothing where no candidate is close."""
    close = nearest(name, candidates)
    return f"; nearest: {', '.join(close)}" if close else ""
