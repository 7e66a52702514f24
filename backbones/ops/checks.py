"""What every operator asks of its tensors, in Python and while torch only traces."""

from __future__ import annotations

from torch import Tensor

from registry import ConvbodyError


class ArgumentError(ConvbodyError, ValueError):
    """Tensors or numbers that an operator cannot work on."""


def check_devices(operator: str, **tensors: Tensor | None) -> None:
    """Raises ArgumentError unless all of ``tensors`` that there are lie on one device.

    Fake kernels ask, too: torch runs them as soon as one tensor has no data, and what they return for
    tensors with data is memory that nobody wrote.
    """
    (first, model), *others = ((name, tensor) for name, tensor in tensors.items() if tensor is not None)
    for name, tensor in others:
        if tensor.device != model.device:
            raise ArgumentError(
                f"{operator}: {name} of shape {tuple(tensor.shape)} is on {tensor.device}, {first} of shape "
                f"{tuple(model.shape)} on {model.device}; they must be on one device"
            )
