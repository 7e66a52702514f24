"""Calling the client of a package registry."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from convbody.data.errors import DataError


def run_client(command: Sequence[str], folder: Path, what: str, remedy: str) -> None:
    """Run ``command`` in ``folder`` to get ``what``.

    Raises:
        DataError: there is no such program, or it fails; gives its last line, and ``remedy``.
    """
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except OSError as error:
        raise DataError(
            f"cannot get {what}: no program {command[0]} here ({error.strerror}); {remedy}"
        ) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it gave no reason"]
        raise DataError(f"{command[0]} cannot get {what} ({lines[-1].strip()}); {remedy}")
