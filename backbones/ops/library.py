"""The compiled extensions: loaded once, when the first operator is imported; absent ones are explained."""

from __future__ import annotations

import os
import warnings
from functools import cache
from pathlib import Path

from registry.errors import in_one_line

#: Set to anything but 0, it keeps the extensions from being built and from being loaded.
SWITCH = "CONVBODY_NO_EXTENSION"

_FOLDER = Path(__file__).parent
_EXTENSIONS = {"cpu": "_C", "cuda": "_C_cuda"}


@cache
def absent(device: str) -> str | None:
    """Loads the extension for ``device``, "cpu" or "cuda"; why there is none, or None where it is loaded.

    The extension for CUDA implements what that for the CPU declares, so it needs that one too. One that
    exists but cannot be loaded is a warning: the operators then work, but slowly.
    """
    import torch

    if os.environ.get(SWITCH, "0") not in ("", "0"):
        return f"{SWITCH} is set"
    if device != "cpu" and (reason := absent("cpu")):
        return reason
    if device == "cuda" and not torch.backends.cuda.is_built():
        return "this torch has no CUDA"
    path = _FOLDER / f"{_EXTENSIONS[device]}.abi3.so"
    if not path.exists():
        return _why_not_built(path)
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        reason = f"{path} exists but fails to load: {in_one_line(error)}"
        warnings.warn(f"{reason}; install convbody anew to build it for this torch", stacklevel=2)
        return reason
    return None


def status() -> dict[str, str]:
    """Which code computes the operators: for "cpu" and "cuda" a sentence that says what serves and why.

    >>> status()
    {'cpu': 'the extension', 'cuda': "torchvision's operator (the extension is not built: no nvcc ...)"}
    """
    from backbones.ops.deform_conv_fallback import serving

    return {
        device: f"{serving(device)} ({reason})" if (reason := absent(device)) else "the extension"
        for device in _EXTENSIONS
    }


def _why_not_built(path: Path) -> str:
    note = path.with_name(path.name.replace(".abi3.so", ".not_built.txt"))
    if not note.exists():
        return "the extension is not built"
    return f"the extension is not built: {note.read_text().splitlines()[0]}; see {note}"
