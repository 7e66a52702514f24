"""Where data sets lie, and writing files so that a reader never sees half of one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from registry.paths import expand

ROOT_VARIABLE = "CONVBODY_DATASETS"


def datasets_root() -> Path:
    """The folder that the paths of data sets are relative to: $CONVBODY_DATASETS, else ./datasets."""
    return Path(expand(os.environ.get(ROOT_VARIABLE) or "datasets", ROOT_VARIABLE))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``: after a crash the file is the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
