"""Fashion-MNIST (Xiao et al. 2017, MIT), grey images of clothes, out of Debian's dataset-fashion-mnist."""

from __future__ import annotations

import gzip
import hashlib
import tempfile
import zlib
from pathlib import Path

from convbody.classification.data.prepare.fetch import run_client
from convbody.data.errors import DataError
from convbody.data.files import write_atomically
from convbody.data.manifest import is_prepared, write_manifest
from registry.errors import in_one_line

PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")  # where Debian puts the files of the package
#: File -> SHA-256 of it unpacked: Debian packs the published files anew.
FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def prepare_fashion_mnist(folder: Path, downloads: Path, installed: Path = INSTALLED) -> bool:
    """Write the four files, unpacked, to ``folder``; False where they already are there.

    They come from ``installed`` or ``downloads``, else out of the package, which apt-get downloads.

    Raises:
        DataError: the package cannot be had, or a file is not the published one.
    """
    settings = {"sources": FILES, "layout": 1}
    if is_prepared(folder, settings):
        return False
    for place in (installed, downloads):
        if all((place / f"{name}.gz").is_file() for name in FILES):
            files = _unpack(place, folder)
            break
    else:
        with tempfile.TemporaryDirectory() as temporary:
            files = _unpack(_out_of_the_package(Path(temporary), downloads), folder)
    write_manifest(folder, settings, files)
    return True


def _out_of_the_package(folder: Path, by_hand: Path) -> Path:
    remedy = f"install it, or put its four .gz files in {by_hand.absolute()}"
    run_client(["apt-get", "download", PACKAGE], folder, f"Debian's package {PACKAGE}", remedy)
    (package,) = folder.glob("*.deb")
    run_client(["dpkg-deb", "-x", package.name, "."], folder, f"Debian's package {PACKAGE}", remedy)
    return folder / INSTALLED.relative_to("/")


def _unpack(source: Path, folder: Path) -> list[Path]:
    targets = []
    for name, wanted in FILES.items():
        packed = source / f"{name}.gz"
        try:
            content = gzip.decompress(packed.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{packed} cannot be unpacked: {in_one_line(error)}") from error
        if (found := hashlib.sha256(content).hexdigest()) != wanted:
            raise DataError(
                f"{packed}, unpacked, has SHA-256 {found}, and {wanted} was expected: "
                "it is not the published file"
            )
        targets.append(folder / "FashionMNIST" / "raw" / name)
        write_atomically(targets[-1], content)
    return targets
