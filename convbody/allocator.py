"""glibc's malloc, told to keep the memory of large tensors for the next ones.

As it comes, malloc takes a large block from the kernel and gives it back when it is freed, so that every
large activation is handed out and zeroed anew, page by page, at its first touch. Programs that run networks
ask it to keep such blocks (``convbody.cli.parse``); importing a package never does.
"""

from __future__ import annotations

import ctypes
import sys

# mallopt's parameters, from <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
#: In bytes. Older glibc takes no mmap threshold above the second one.
_MMAP_THRESHOLDS = (1 << 30, 32 << 20)
_LARGEST = (1 << 31) - 1
_STEP = 64 << 20


def keep_freed_memory() -> bool:
    """From now on blocks of up to 1 GiB are kept when they are freed; False where malloc is not glibc's.

    The process then holds the most that it has needed at one time, and may hold more than that where blocks
    of many sizes take turns.
    """
    malloc_options = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if malloc_options is None:  # musl, macOS
        return False
    taken = any(malloc_options(_MMAP_THRESHOLD, size) for size in _MMAP_THRESHOLDS)
    return bool(taken and malloc_options(_TRIM_THRESHOLD, _LARGEST) and malloc_options(_TOP_PAD, _STEP))
