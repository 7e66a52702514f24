"""What a pickle would make Python do, told from its opcodes before any object is built.

A few hundred bytes can end the interpreter without a call to any function: tuples nested a million deep
overflow the C stack when they become a key, tuples that hold one another twice take exponential time to hash,
and a memo index of four billion makes the unpickler allocate as many entries. Nothing of this occurs in files
that a pickler wrote.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from pickletools import OpcodeInfo, markobject, opcodes
from typing import Any, BinaryIO, NamedTuple

from registry.errors import in_one_line

MAX_DEPTH = 100
#: Parts of tuples that may be read again from the memo.
MAX_REPEATED = 1_000_000

_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in opcodes}
#: Their arguments are lines of text, which Python 2 wrote with any bytes in them.
_LINES = {"STRING", "UNICODE"}
#: Kinds of an argument's length in pickletools -> how that length is written before it.
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: struct.Struct("<B"),
    pickletools.TAKEN_FROM_ARGUMENT4: struct.Struct("<i"),
    pickletools.TAKEN_FROM_ARGUMENT4U: struct.Struct("<I"),
    pickletools.TAKEN_FROM_ARGUMENT8U: struct.Struct("<Q"),
}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}


class _Value(NamedTuple):
    """How deep tuples are nested in a value, and how many parts one counts who follows all of them."""

    depth: int = 0
    parts: int = 1


_ATOM, _MARK = _Value(), _Value(depth=-1)


def check_pickle(stream: BinaryIO) -> None:
    """Reads one pickle, up to and including its end, and builds nothing.

    Raises:
        pickle.UnpicklingError: no pickle, tuples that are nested too deep or repeated too often, or a memo
            index beyond the number of bytes read.
    """
    try:
        _Scan().run(stream)
    except pickle.UnpicklingError:
        raise
    except KeyError as error:
        raise pickle.UnpicklingError("not a pickle, or one that is cut off") from error
    except Exception as error:  # each opcode reads its argument in its own way
        raise pickle.UnpicklingError(f"not a sound pickle ({in_one_line(error)})") from error


class _Scan:
    def __init__(self) -> None:
        self.stack: list[_Value] = []
        self.memo: dict[int, _Value] = {}
        self.repeated = 0

    def run(self, stream: BinaryIO) -> None:
        start = stream.tell()
        while (opcode := _OPCODES[stream.read(1)]).name != "STOP":
            name, argument = opcode.name, _argument(opcode, stream)
            if name == "MARK":
                self.stack.append(_MARK)
            elif name in _TUPLES:
                self._tuple([self.stack.pop() for _ in range(_TUPLES[name])])
            elif name == "TUPLE":
                self._tuple(self._to_mark())
            elif name in _PUTS:
                self._put(argument, stream.tell() - start)
            elif name == "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            elif name in _GETS:
                self._repeat(self.memo[argument])
            elif name == "DUP":
                self._repeat(self.stack[-1])
            else:
                self._other(opcode)

    def _tuple(self, parts: list[_Value]) -> None:
        depth = 1 + max((part.depth for part in parts), default=0)
        if depth > MAX_DEPTH:
            raise pickle.UnpicklingError(f"it nests tuples more than {MAX_DEPTH} deep")
        self.stack.append(_Value(depth, 1 + sum(part.parts for part in parts)))

    def _put(self, index: int, position: int) -> None:
        if not 0 <= index <= position:
            raise pickle.UnpicklingError(f"it asks for a memo of {index} entries")
        self.memo[index] = self.stack[-1]

    def _repeat(self, value: _Value) -> None:
        self.repeated += value.parts - 1
        if self.repeated > MAX_REPEATED:
            raise pickle.UnpicklingError("it holds the same tuples again and again")
        self.stack.append(value)

    def _other(self, opcode: OpcodeInfo) -> None:
        before = opcode.stack_before
        if markobject in before:
            self._to_mark()
            before = before[: before.index(markobject)]
        for _ in before:
            self.stack.pop()
        self.stack += [_ATOM] * len(opcode.stack_after)

    def _to_mark(self) -> list[_Value]:
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items


def _argument(opcode: OpcodeInfo, stream: BinaryIO) -> Any:
    """The argument of an opcode; long ones are passed over."""
    if opcode.arg is None:
        return None
    if opcode.name in _LINES:
        return stream.readline()
    if opcode.arg.n not in _LENGTHS:
        return opcode.arg.reader(stream)
    written = _LENGTHS[opcode.arg.n]
    (length,) = written.unpack(stream.read(written.size))
    place = stream.tell() + length
    if length < 0 or place > stream.seek(0, io.SEEK_END):
        raise ValueError(f"{opcode.name} of {length} bytes")
    stream.seek(place)
    return None
