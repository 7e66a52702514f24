"""Where a registered thing is defined, found without importing it where that is possible."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Found:
    """The place of a definition: file, line (from 1) and the first line of its docstring ("" without one)."""

    file: str
    line: int
    summary: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def find_target(target: str) -> Found | None:
    """The place of ``"module:attribute"``, read from the source; None unless it is a plain definition."""
    module, _, attribute = target.partition(":")
    spec = find_spec(module)
    if spec is None or spec.origin is None or not attribute:
        return None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
            return Found(spec.origin, node.lineno, _first_line(ast.get_docstring(node)))
    return None


def find_object(thing: Any, registered_at: str) -> Found:
    """The place of a class or function; for any other object, the place where it was registered."""
    summary = _first_line(thing.__doc__) if inspect.isclass(thing) or inspect.isroutine(thing) else ""
    try:
        return Found(inspect.getsourcefile(thing) or "", inspect.getsourcelines(thing)[1], summary)
    except (TypeError, OSError):
        file, _, line = registered_at.rpartition(":")
        return Found(file, int(line), summary) if line.isdigit() else Found(registered_at, 0, summary)


def _first_line(docstring: str | None) -> str:
    lines = (docstring or "").strip().splitlines()
    return lines[0].strip() if lines else ""
