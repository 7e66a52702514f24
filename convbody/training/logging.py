"""One log for all processes of a run: console and ``log.txt``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TextIO

from convbody.training import distributed
from registry import ConvbodyError

#: The packages whose loggers are shown; everything here logs under ``logging.getLogger(__name__)``.
_PACKAGES = ("registry", "backbones", "convbody")


def setup_logging(output_dir: Path | None = None, stream: TextIO | None = None) -> None:
    """Show the project's log on ``stream`` (stdout) and, with ``output_dir``, append it to ``log.txt`` there.

    Rank 0 shows everything from INFO on, others only warnings and errors, marked with their rank. Calling it
    again replaces what an earlier call set up. Raises ConvbodyError where the folder cannot be written.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(stream or sys.stdout)]
    if output_dir is not None:
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            handlers.append(
                logging.FileHandler(output_dir / "log.txt", encoding="utf-8", errors="backslashreplace")
            )
        except OSError as error:
            raise ConvbodyError(f"OUTPUT_DIR {output_dir} cannot be written: {error.strerror}") from error
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
