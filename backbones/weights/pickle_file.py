"""Reading ``.pkl`` weight files without running what they say: numpy arrays and plain containers only.

No function of numpy's ever sees what a file says. The names that an array pickles as stand for small objects
of this module, which take exactly the arguments that numpy writes, in any protocol, and keep the bytes.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.weights.pickle_scan import check_pickle
from registry.errors import in_one_line

_CODE = re.compile(r"([a-zA-Z])\d{0,9}")
_BYTE_ORDERS = {"<": "<", ">": ">", "=": "=", "|": "="}
#: Codes of the numbers that torch knows, by their kinds: boolean, whole, real, complex.
_NUMBERS = {"b1", *("i1", "i2", "i4", "i8"), *("u1", "u2", "u4", "u8"), *("f2", "f4", "f8"), *("c8", "c16")}
_KINDS_OF_NUMBERS = "biufc"


def read_pickle(file: Path) -> Any:
    """The content of a pickle: plain containers, in which arrays are :class:`PickledArray`.

    Files of Python 2 are read too.

    Raises:
        pickle.UnpicklingError: not a pickle, one that would exhaust the machine, or one that asks for
            anything but arrays and containers; the message names what it asked for, which is neither
            imported nor called.
    """
    stream = io.BytesIO(file.read_bytes())
    check_pickle(stream)
    stream.seek(0)
    try:
        return _ArrayUnpickler(stream, encoding="latin1").load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a broken pickle can make the machine fail in any way
        raise pickle.UnpicklingError(f"not a sound pickle ({in_one_line(error)})") from error


class PickledDtype:
    """Stands for ``numpy.dtype``: a code such as "f4", and a byte order."""

    __slots__ = ("code", "kind", "order")

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        if not isinstance(code, str) or not (found := _CODE.fullmatch(code)):
            raise pickle.UnpicklingError(f"it holds an array of an unknown type: {str(code)[:40]!r}")
        self.code, self.kind, self.order = code, found[1], "="

    def __setstate__(self, state: Any) -> None:
        """(version, byte order, ...); the rest describes text, records and dates, which are not read."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if not isinstance(order, str) or order not in _BYTE_ORDERS:
            raise pickle.UnpicklingError("it holds an array of an unknown byte order")
        self.order = _BYTE_ORDERS[order]

    def numbers(self) -> np.dtype[Any] | None:
        """numpy's own; None where these are no numbers.

        Raises:
            pickle.UnpicklingError: numbers of a size that torch has not.
        """
        if self.kind not in _KINDS_OF_NUMBERS:
            return None
        if self.code not in _NUMBERS:
            raise pickle.UnpicklingError(
                f"it holds an array of {self.code}, numbers that torch does not know"
            )
        return np.dtype(self.order + self.code)


class PickledArray:
    """Stands for ``numpy.ndarray``: its bytes, of which a tensor can be made."""

    __slots__ = ("axes", "dtype", "is_fortran", "raw", "shape")

    def __init__(self) -> None:
        self.dtype: np.dtype[Any] | None = None
        self.shape: tuple[int, ...] = ()
        self.axes: tuple[int, ...] | None = None
        self.is_fortran = False
        self.raw: bytes | bytearray = b""

    def __setstate__(self, state: Any) -> None:
        """(version, shape, dtype, whether the first index is the fastest, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("it holds an array of an unknown version")
        _, shape, dtype, is_fortran, raw = state
        self.fill(shape, dtype, bool(is_fortran), raw)

    def fill(self, shape: Any, dtype: Any, is_fortran: bool, raw: Any) -> None:
        """Sets all of it, where it holds numbers.

        Raises:
            pickle.UnpicklingError: the parts do not belong together.
        """
        if not isinstance(dtype, PickledDtype):
            raise pickle.UnpicklingError("it holds an array without a type")
        numbers = dtype.numbers()
        if numbers is None:
            return
        if not _is_shape(shape):
            raise pickle.UnpicklingError("it holds an array whose shape is none")
        if isinstance(raw, str):  # of Python 2
            raw = raw.encode("latin-1")
        size = math.prod(shape) * numbers.itemsize
        if not isinstance(raw, bytes | bytearray) or len(raw) != size:
            raise pickle.UnpicklingError(f"it holds an array of shape {shape} with other than {size} bytes")
        self.dtype, self.shape, self.is_fortran, self.raw = numbers, shape, is_fortran, raw

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return len(self.raw)

    def tensor(self) -> Tensor:
        """A contiguous tensor with its own memory, in the byte order of this machine.

        Raises:
            pickle.UnpicklingError: no numbers, or a shape that numpy does not take.
        """
        if self.dtype is None:
            raise pickle.UnpicklingError("it holds an array of no numbers")
        array: np.ndarray[Any, Any] = np.frombuffer(self.raw, self.dtype)
        array = array.reshape(self.shape, order="F" if self.is_fortran else "C")
        if self.axes is not None:
            array = array.transpose(self.axes)
        # torch knows neither the other byte order nor negative strides.
        return torch.from_numpy(np.array(array, self.dtype.newbyteorder("="), order="C"))


class _Mapping(dict[Any, Any]):
    """Stands for ``collections.OrderedDict``; forgets what else a file hangs on it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Admitted:
    """A function that a pickle may call, and can do nothing else with."""

    __slots__ = ("function",)
    function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("it changes what it was given")


def no_array(*arguments: Any) -> Any:
    """Stands for the class of arrays where it is named and never called."""
    raise pickle.UnpicklingError("it calls numpy.ndarray, which no array of numpy's does")


def reconstructed(kind: Any, shape: Any, code: Any) -> PickledArray:
    """An empty array, whose state follows."""
    named = kind.function if isinstance(kind, _Admitted) else kind
    if named is not no_array or shape != (0,):
        raise pickle.UnpicklingError("it holds an array that numpy did not write")
    return PickledArray()


def from_buffer(raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> PickledArray:
    """An array of protocol 5. With order "K", ``shape`` is that in the order of memory, and ``axes`` are its
    axes in the order of the array.
    """
    array = PickledArray()
    array.fill(shape, dtype, order == "F", raw)
    if order == "K" and axes is not None:
        if not _is_shape(axes) or sorted(axes) != list(range(len(array.shape))):
            raise pickle.UnpicklingError("it holds an array whose axes are none")
        array.axes = axes
    return array


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(side) is int and side >= 0 for side in value)


def no_scalar(dtype: Any, raw: Any = None) -> None:
    """Stands for a number of numpy's, of which no weights are made."""


def encoded(text: Any, encoding: Any) -> bytes:
    """The bytes that Python 3 writes as text in protocols 0 to 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("it asks for _codecs.encode, with other arguments than those of bytes")
    return text.encode("latin-1")


def no_bytes() -> bytes:
    """What Python 3 writes for b"" in protocols 0 to 2."""
    return b""


#: (module, name) that a pickle may ask for -> what it gets. numpy 2 moved its functions to numpy._core.
ADMITTED: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): no_array,
    ("numpy", "dtype"): PickledDtype,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", reconstructed),
            ("multiarray", "scalar", no_scalar),
            ("numeric", "_frombuffer", from_buffer),
        )
    },
    ("_codecs", "encode"): encoded,
    ("__builtin__", "bytes"): no_bytes,
    ("collections", "OrderedDict"): _Mapping,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, and a .pkl may hold numpy arrays and plain containers only"
            )
        return _Admitted(ADMITTED[module, name])
