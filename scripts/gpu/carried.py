"""The operators that the bundle carries, and which sources they were built from."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

NAMES = {"cpu": "_C.abi3.so", "cuda": "_C_cuda.abi3.so"}
PLACE = Path("backbones", "ops")
FINGERPRINT = "sources.sha256"


def fingerprint(root: Path) -> str:
    """SHA-256 of the names and contents of all that the operators are built from."""
    files = [root / "setup.py", *(path for path in (root / "csrc").rglob("*") if path.is_file())]
    sha = hashlib.sha256()
    for path in sorted(files):
        content = path.read_bytes()
        sha.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return sha.hexdigest()


def take(device: str, folder: Path, root: Path) -> str | None:
    """Copies the operators for a device from `folder` to their place; why not, or None if that was done."""
    file = folder / NAMES[device]
    if not file.exists():
        return "the bundle carries none"
    if not (stamp := folder / FINGERPRINT).exists() or stamp.read_text().strip() != fingerprint(root):
        return "those that the bundle carries were built from other sources"
    shutil.copy2(file, root / PLACE / file.name)
    return None
