"""Masks: COCO's run-length codes and polygons, decoded only after they are known to be sound.

pycocotools decodes in C and checks nothing: runs that do not fill their image leave memory unwritten, and the
outline of a polygon takes memory by the pixel, up to a crash.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pycocotools import mask as coco_mask

from convbody.detection.data.records import Polygons, RunLengths

#: A polygon may leave its image by this many image widths (or heights) on each side.
FARTHEST_OUTSIDE = 1.0
#: The outline of a mask in pixels, all polygons together: 2,000,000 take 160 MB while they are drawn.
LONGEST_OUTLINE = 2_000_000.0

_CHUNK = 2**22
_MOST_CHARACTERS = 7  # of five bits, for a number of 32 with its sign


def decode_mask(segmentation: Polygons | RunLengths, height: int, width: int) -> np.ndarray:
    """The mask uint8 (height, width) of an annotation that was read. Raises ValueError for another size."""
    if isinstance(segmentation, RunLengths):
        if (segmentation.height, segmentation.width) != (height, width):
            raise ValueError(
                f"run-length code of {segmentation.width}x{segmentation.height} in {width}x{height}"
            )
        mask = coco_mask.decode({"size": [height, width], "counts": segmentation.counts})
    else:
        mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(list(segmentation), height, width)))
    return np.asarray(mask, np.uint8)


def compress(runs: Sequence[int], height: int, width: int) -> bytes:
    """The compressed form of runs, zeros first, that fill an image of ``height`` x ``width``.

    Raises ValueError where they do not.
    """
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError("the runs do not add up to the image")
    code: bytes = coco_mask.frPyObjects({"size": [height, width], "counts": list(runs)}, height, width)[
        "counts"
    ]
    return code


def unsound_codes(codes: np.ndarray, ends: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Which of N compressed run-length codes do not fill their image, (N,) bool.

    ``codes`` uint8 has them one after the other, code i up to ``ends[i]``; ``pixels`` (N,) counts the pixels
    of each one's image. An empty code, which stands for none, is sound.
    """
    bad = np.zeros(len(ends), bool)
    for rows, values in chunks(ends):
        bad[rows] = _unsound(codes[values], ends[rows] - values.start, pixels[rows])
    return bad


def chunks(ends: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Rows that end at ``ends``, a few million values at a time: (rows, values), which bounds the memory."""
    first = begin = 0
    while first < len(ends):
        last = max(first + 1, int(np.searchsorted(ends, begin + _CHUNK, side="right")))
        yield slice(first, last), slice(begin, int(ends[last - 1]))
        first, begin = last, int(ends[last - 1])


def _unsound(codes: np.ndarray, ends: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """``unsound_codes`` of one chunk.

    A number is a row of characters from "0" on with five bits each, lowest first, a sixth bit that says
    whether more follow, and the sign in the last one's fifth. From the fourth number on, each is the
    difference to the one before the previous.
    """
    bad = np.zeros(len(ends), bool)
    begins = np.concatenate([[0], ends[:-1]])
    bad[np.searchsorted(ends, np.flatnonzero((codes < ord("0")) | (codes > ord("o"))), side="right")] = True
    full = np.flatnonzero(ends > begins)
    if not len(full):
        return bad
    bits = codes - np.uint8(ord("0"))
    ends_number = (bits & 32) == 0
    bad[full[~ends_number[ends[full] - 1]]] = True  # cut off within a number
    # A number never goes on into the next code, however damaged its own is.
    ends_number[ends[full] - 1] = True
    lasts = np.flatnonzero(ends_number)
    last_number = np.searchsorted(lasts, ends[full] - 1)
    runs, starts = _without_differences(_numbers(bits, lasts), last_number)
    wrong = (np.diff(lasts, prepend=-1) > _MOST_CHARACTERS) | (runs < 0)
    bad[full[np.searchsorted(last_number, np.flatnonzero(wrong))]] = True
    bad[full[np.add.reduceat(runs, starts) != pixels[full]]] = True
    return bad


def _numbers(bits: np.ndarray, lasts: np.ndarray) -> np.ndarray:
    """The numbers, int64, of which the last characters are at ``lasts``; of too long ones only a part."""
    firsts = np.concatenate([[0], lasts[:-1] + 1])
    digits = np.minimum(lasts - firsts + 1, _MOST_CHARACTERS)
    numbers = (bits[firsts] & 31).astype(np.int64)
    for place in range(1, int(digits.max(initial=0))):
        longer = np.flatnonzero(digits > place)
        numbers[longer] |= (bits[firsts[longer] + place] & 31).astype(np.int64) << (5 * place)
    negative = np.flatnonzero(bits[lasts] & 16)
    numbers[negative] -= np.int64(1) << (5 * digits[negative])
    return numbers


def _without_differences(numbers: np.ndarray, lasts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs from the numbers of codes of which code i ends with number ``lasts[i]``, and where each starts.

    Every second number of a code, from its second or its third on, adds up.
    """
    starts = np.concatenate([[0], lasts[:-1] + 1])
    sums = np.concatenate([[0, 0], numbers])
    sums[::2] = np.cumsum(sums[::2])
    sums[1::2] = np.cumsum(sums[1::2])
    counts = np.diff(starts, append=len(numbers))
    odd = (np.arange(len(numbers)) - np.repeat(starts, counts)) % 2 == 1
    # ``sums`` is two longer: its element at ``starts`` is the sum up to two numbers before a code.
    before = np.where(odd, np.repeat(sums[starts + 1], counts), np.repeat(sums[starts + 2], counts))
    runs = sums[2:] - before
    runs[starts] = numbers[starts]
    return runs, starts


def outlines(points: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """How long each of N closed polygons is in pixels along its longer direction, (N,) float64.

    ``points`` (P, 2) has the corners, those of polygon i up to ``ends[i]``; each polygon has at least one.
    """
    if not len(ends):
        return np.zeros(0)
    starts = np.concatenate([[0], ends[:-1]])
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = starts
    steps = np.abs(points[following] - points).max(axis=1)
    return np.add.reduceat(steps, starts)
