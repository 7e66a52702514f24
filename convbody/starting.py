"""To be imported first in a program: a signal to stop that comes while it is still loading is one line, too.

``convbody.cli.run`` takes over. Libraries never import it.
"""

from __future__ import annotations

import os
import signal
from types import FrameType


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, f"interrupted by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


signal.signal(signal.SIGINT, _end)
signal.signal(signal.SIGTERM, _end)
