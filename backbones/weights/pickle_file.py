"""Reading ``.pkl`` weight files without running what they say: numpy arrays and plain containers only."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# What arrays and array scalars pickle as; numpy 2 moved these functions from numpy.core to numpy._core.
_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_SCALAR = np.float64(0).__reduce__()[0]
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.multiarray", "scalar"): _SCALAR,
    ("numpy._core.multiarray", "scalar"): _SCALAR,
    ("collections", "OrderedDict"): OrderedDict,
}


def read_pickle(file: Path) -> Mapping[Any, Any]:
    """The mapping in a pickle, arrays of numbers as tensors; {} when it holds something else.

    Files of Python 2 are read too. Nested mappings keep their nesting.

    Raises:
        pickle.UnpicklingError: not a pickle, or one that asks for anything but arrays and containers; the
            message names what it asked for, which is neither imported nor called.
    """
    with file.open("rb") as stream:
        try:
            content = _ArrayUnpickler(stream, encoding="latin1").load()
        except (pickle.UnpicklingError, MemoryError):
            raise
        except Exception as error:  # a broken pickle can make the machine fail in any way
            raise pickle.UnpicklingError(f"not a sound pickle ({error})") from error
    return _with_tensors(content) if isinstance(content, Mapping) else {}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, and a .pkl may hold numpy arrays and plain containers only"
            )
        return _ADMITTED[module, name]


def _with_tensors(content: Mapping[Any, Any]) -> dict[Any, Any]:
    return {
        name: _with_tensors(value) if isinstance(value, Mapping) else _as_tensor(value)
        for name, value in content.items()
    }


def _as_tensor(value: Any) -> Tensor | Any:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        return value
    # torch knows neither the other byte order nor negative strides.
    return torch.from_numpy(np.array(value, value.dtype.newbyteorder("="), order="C"))
