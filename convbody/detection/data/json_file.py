"""The file around a COCO data set's entries: bytes into lists of entries that are not yet decoded.

Entries are decoded one by one later, so that a mistake in one is counted and does not hide the others, and a
file of a million objects never stands in memory as Python objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Raw

from convbody.data.errors import DataError
from convbody.detection.data.report import shortened

# Python and pandas write these, and JSON has none of them.
_NO_NUMBER = re.compile(rb"(?<=[:,\[\s])(?:NaN|-?Infinity)(?=[\s,\]}])")
_NUMBERS = {b"NaN": b"null", b"Infinity": b"1e999", b"-Infinity": b"-1e999"}
# Escapes in strings: a pair of surrogates, a lone one, anything else.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|u([dD][89a-fA-F][\da-fA-F]{2})|.)"
)
# A byte of a file name that is not UTF-8 is a lone surrogate in Python's JSON, which no decoder of UTF-8
# takes; the last characters of Unicode's private use stand for them in between.
_BYTES = {0x10FF00 + byte: 0xDC00 + byte for byte in range(0x80, 0x100)}
_KEY = re.compile(rb'[\s,{]*("(?:[^"\\]|\\.)*")\s*:\s*')
_STARTS = {
    b"\x1f\x8b": "is compressed (gzip); unpack it first",
    b"PK\x03\x04": "is a zip archive; unpack it first",
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
}


@dataclass(frozen=True)
class Entries:
    """The three lists of a COCO file, each entry as the bytes that the file has for it."""

    images: list[Raw]
    annotations: list[Raw]
    categories: list[Raw]


def read_entries(path: Path) -> Entries:
    """The entries of the COCO file at ``path``; a list of annotations may be null or absent.

    NaN is read as null, and an infinite number as one beyond the range of floats. Raises DataError where the
    file cannot be read, is no JSON, gives one of its keys twice, or has no list of images or categories.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read annotation file {path}: {error.strerror}") from error
    return split(data, str(path))


def split(data: bytes, name: str) -> Entries:
    """The entries in the content ``data`` of the COCO file called ``name``; raises like ``read_entries``."""
    data = data.removeprefix(b"\xef\xbb\xbf")  # a byte order mark, which some editors write
    for start, problem in _STARTS.items():
        if data.startswith(start):
            raise DataError(f"annotation file {name} {problem}")
    if not data.strip():
        raise DataError(f"annotation file {name} is empty")
    keys = _top_level(data, name)
    lists = {}
    for key in ("images", "annotations", "categories"):
        value = keys.get(key, Raw(b"null"))
        try:
            lists[key] = msgspec.json.decode(value, type=list[Raw])
        except msgspec.ValidationError:
            if key != "annotations" or bytes(value) != b"null":
                problem = f'annotation file {name} has no list "{key}", so it is not in COCO\'s format'
                raise DataError(problem) from None
            lists[key] = []
    return Entries(**lists)


def _top_level(data: bytes, name: str) -> dict[str, Raw]:
    decoder = msgspec.json.Decoder(dict[str, Raw])
    try:
        try:
            keys = decoder.decode(data)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            data = _in_json(data)
            keys = decoder.decode(data)
    except msgspec.ValidationError:
        raise DataError(
            f'annotation file {name} has no list "images", so it is not in COCO\'s format'
        ) from None
    except RecursionError:
        raise DataError(
            f"annotation file {name} nests lists or objects too deeply to be COCO's format"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"annotation file {name} is not JSON in UTF-8: {shortened(str(error))}") from None
    for twice in _given_twice(data, keys):
        raise DataError(f"annotation file {name} gives its key {shortened(twice)} twice; leave one")
    return keys


def original_text(text: str) -> str:
    """``text`` of an entry as the file has it: bytes that are not UTF-8 as ``os.fsdecode`` gives them."""
    return text if text.isascii() else text.translate(_BYTES)


def _in_json(data: bytes) -> bytes:
    """``data`` with what Python writes and JSON has not, NaN and lone surrogates, in JSON's own words."""
    if re.search(rb"\\u[dD]", data):
        data = _ESCAPE.sub(_paired, data)
    pieces: list[bytes] = []
    last, in_string = 0, False
    for match in _NO_NUMBER.finditer(data):
        piece = data[last : match.start()]
        unescaped = re.sub(rb"\\.", b"", piece) if b"\\" in piece else piece
        in_string ^= bool(unescaped.count(b'"') % 2)
        pieces += [piece, match.group() if in_string else _NUMBERS[match.group()]]
        last = match.end()
    return b"".join([*pieces, data[last:]])


def _paired(escape: re.Match[bytes]) -> bytes:
    if escape.group(1) is None:
        return escape.group()
    code = int(escape.group(1), 16)
    return rb"\udbff\udf%02x" % (code - 0xDC00) if code - 0xDC00 in range(0x80, 0x100) else rb"\ufffd"


def _given_twice(data: bytes, keys: Mapping[str, Raw]) -> Iterator[str]:
    """Keys whose earlier value a decoder drops: more lies between two values than the second's key."""
    base = _address(data)
    end = 0
    for start, length in sorted((_address(value) - base, len(memoryview(value))) for value in keys.values()):
        between = memoryview(data)[end:start]
        if not _KEY.fullmatch(between) and (key := _KEY.match(between)):
            yield key.group(1).decode("utf-8", "replace")
        end = start + length


def _address(buffer: bytes | Raw) -> int:
    return int(np.frombuffer(buffer, np.uint8).__array_interface__["data"][0])
