"""Files of a run that cannot be written: a full disk, or a folder that has gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convbody.training import distributed
from registry import Config, ConvbodyError


class OutputError(ConvbodyError):
    """A file of a run cannot be written; the message names it."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """While entered, an OSError becomes an OutputError about ``path``, a file or a folder."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; make room or set OUTPUT_DIR elsewhere"
        ) from error


def write_config(cfg: Config, folder: Path) -> None:
    """Writes config.yaml of a run; each process calls it. Raises OutputError where it cannot be written."""

    def write() -> None:
        with writing(folder / "config.yaml"):
            (folder / "config.yaml").write_text(cfg.dump())

    distributed.on_main(write)
