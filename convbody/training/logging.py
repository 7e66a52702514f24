"""One log for all processes of a run: console and ``log.txt``."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from typing import TextIO

from convbody.training import distributed
from convbody.training.output import OutputError
from registry.program import output_is_closed

#: The packages whose loggers are shown; everything here logs under ``logging.getLogger(__name__)``.
_PACKAGES = ("registry", "backbones", "convbody")


def setup_logging(output_dir: Path | None = None, stream: TextIO | None = None) -> None:
    """Show the project's log on ``stream`` (stdout) and, with ``output_dir``, append it to ``log.txt`` there.

    Rank 0 shows everything from INFO on, others only warnings and errors, marked with their rank. Calling it
    again replaces what an earlier call set up. Where a line cannot be written later, the log goes on without
    that file, or without a console that nobody reads. Raises OutputError where the folder cannot be written.
    """
    handlers: list[logging.Handler] = [_Console(stream or sys.stdout)]
    if output_dir is not None:
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            handlers.append(_LogFile(output_dir / "log.txt", encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise OutputError(f"OUTPUT_DIR {output_dir} cannot be written: {error.strerror}") from error
    main = distributed.is_main()
    rank = "" if main else f" [rank {distributed.rank()}]"
    formatter = logging.Formatter(f"%(asctime)s{rank} %(levelname)s %(message)s", "%H:%M:%S")
    for handler in handlers:
        handler.setFormatter(formatter)
        handler.setLevel(logging.INFO if main else logging.WARNING)
    for package in _PACKAGES:
        logger = logging.getLogger(package)
        logger.setLevel(logging.INFO)
        for old in logger.handlers[:]:
            logger.removeHandler(old)
            old.close()
        for handler in handlers:
            logger.addHandler(handler)


def _remove(handler: logging.Handler) -> None:
    for package in _PACKAGES:
        logging.getLogger(package).removeHandler(handler)


class _Console(logging.StreamHandler[TextIO]):
    """Lines on a stream, until nobody reads it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may be of any bytes

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            return super().handleError(record)
        output_is_closed()
        _remove(self)


class _LogFile(logging.FileHandler):
    """Lines in a file, until it cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            return super().handleError(record)
        _remove(self)
        logging.getLogger(__name__).warning("cannot write %s: %s", self.baseFilename, error.strerror)
