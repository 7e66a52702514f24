"""What autocast would make of a computation, asked in a way that every device answers."""

from __future__ import annotations

import torch


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """The type that autocast now has for devices of this type; None without it.

    Devices that know no autocast, such as "meta", have none; torch raises a RuntimeError there.
    """
    known = torch.amp.is_autocast_available(device_type)
    enabled = known and torch.is_autocast_enabled(device_type)
    return torch.get_autocast_dtype(device_type) if enabled else None
