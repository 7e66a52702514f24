"""What a part of the GPU check found, in a file that is whole after every row.

A part is a program `scripts/gpu/PART.py --device cuda|cpu [--rehearse] --json FILE`. It calls

    args = arguments(__doc__)
    rows = Rows(args.json)
    rows.add("deform_conv2d, float32", ok=error < 1e-5, value=error, unit="relative error")
    sys.exit(rows.status())

and scripts/gpu/check.py runs it in bounded time. What the part wrote before it was killed counts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One finding. `ok` is None for a figure that is neither right nor wrong."""

    name: str
    ok: bool | None
    value: Any = None
    unit: str = ""
    detail: str = ""
    missed: bool = False  # it was to be checked and was not


class Rows:
    """The rows of a part; `facts` stand beside them in the file."""

    def __init__(self, path: Path, **facts: Any) -> None:
        self.path = path
        self.facts = facts
        self.rows: list[Row] = []
        self._write()

    def add(
        self, name: str, ok: bool | None = None, value: Any = None, unit: str = "", detail: str = ""
    ) -> None:
        """Adds a row, prints it as one line, and writes the file."""
        row = Row(name, ok, _as_json(value), unit, detail)
        self.rows.append(row)
        self._write()
        says = {True: "ok    ", False: "FAILED", None: "      "}[ok]
        first = (detail.strip().splitlines() or [""])[0]
        print(f"{says} {name}: {'' if value is None else value} {unit} {first}".rstrip(": "), flush=True)

    def miss(self, name: str, reason: str) -> None:
        """Adds a row for what could not be checked: nothing is wrong, but the part is not complete."""
        self.rows.append(Row(name, None, detail=reason, missed=True))
        self._write()
        print(f"MISSED {name}: {reason}", flush=True)

    def take(self, found: list[dict[str, Any]]) -> None:
        """Adds rows that another process has printed."""
        self.rows += [Row(**row) for row in found]
        self._write()

    def note(self, **facts: Any) -> None:
        """Changes facts beside the rows."""
        self.facts |= facts
        self._write()

    @contextmanager
    def guarded(self, name: str) -> Iterator[None]:
        """Turns an exception of the block into a failing row of that name, so that the next block runs."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.add(name, False, detail=f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}")

    def status(self) -> int:
        """The exit status of the part: 0 if there are rows, none failed and none was missed."""
        right = all(row.ok is not False and not row.missed for row in self.rows)
        return 0 if self.rows and right else 1

    def _write(self) -> None:
        # Replaced as a whole, so that a reader never finds half a file.
        temporary = self.path.with_name(f"{self.path.name}.new")
        content = {**self.facts, "rows": [asdict(row) for row in self.rows]}
        temporary.write_text(json.dumps(content, indent=1, default=str))
        temporary.replace(self.path)


def arguments(description: str | None) -> argparse.Namespace:
    """The command line of a part: `device`, `rehearse`, `json`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--rehearse", action="store_true", help="cut the sizes down")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the rows go")
    return parser.parse_args()


def seconds_given(otherwise: float = 60.0) -> float:
    """How long this part may take, in seconds, as the driver said when it started it."""
    return float(os.environ.get("GPU_CHECK_SECONDS", otherwise))


def _as_json(value: Any) -> Any:
    """`value` with numbers that JSON does not have (NaN, infinity) as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return value
