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
#: The operators that csrc/library.cpp declares.
_DECLARED = (
    *("deform_conv2d", "deform_conv2d_backward", "fused_conv2d"),
    *("roi_align", "roi_align_backward", "nms_keep"),
    *(f"activated_norm{part}" for part in ("", "_statistics", "_sums", "_backward")),
)


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
        # Looked up in the file: once loaded, an old one would stand in the way of the code that replaces it.
        if device == "cpu" and (lacking := _lacking(path.read_bytes())):
            raise OSError(f"it was built from older sources, without {', '.join(lacking)}")
        torch.ops.load_library(str(path))
    except OSError as error:
        reason = f"{path} exists but fails to load: {in_one_line(error)}"
        warnings.warn(f"{reason}; install convbody anew, or call make, to build it", stacklevel=2)
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


def _lacking(library: bytes) -> list[str]:
    return [name for name in _DECLARED if f"{name}(Tensor".encode() not in library]


def _why_not_built(path: Path) -> str:
    note = path.with_name(path.name.replace(".abi3.so", ".not_built.txt"))
    if not note.exists():
        return "the extension is not built"
    return f"the extension is not built: {note.read_text().splitlines()[0]}; see {note}"
