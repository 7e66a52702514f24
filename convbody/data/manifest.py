"""A note beside a prepared data set, by which the next run knows that the work is done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from convbody.data.files import sha256_of, write_atomically

_NAME = "prepared.json"


def is_prepared(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether ``folder`` was prepared with these very settings, and every file still is as it was written."""
    try:
        note = json.loads((folder / _NAME).read_bytes())
        return note["settings"] == settings and all(
            sha256_of(folder / name) == found for name, found in note["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def write_manifest(folder: Path, settings: Mapping[str, Any], files: Iterable[Path]) -> None:
    """Record ``settings`` and the hashes of ``files`` under ``folder``: the last step of preparing."""
    hashes = {str(path.relative_to(folder)): sha256_of(path) for path in files}
    note = {"settings": dict(settings), "files": hashes}
    write_atomically(folder / _NAME, json.dumps(note, indent=1).encode())
