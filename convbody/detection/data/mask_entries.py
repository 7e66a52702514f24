"""The masks of a COCO file's annotations: polygons and run-length codes, collected into two arrays."""

from __future__ import annotations

from array import array

import msgspec
import numpy as np
from msgspec import Raw

from convbody.detection.data.fields import FieldError, RunLengthFields, decode
from convbody.detection.data.masks import compress
from convbody.detection.data.report import shortened
from convbody.detection.data.tables import Masks, Ragged

_LEAST = 6  # numbers of a polygon: three points
_PATH = ".segmentation"
_DECODER = msgspec.json.Decoder(list[list[float] | RunLengthFields] | RunLengthFields | None)


class MaskColumn:
    """Masks row by row; run-length codes are not yet known to be sound, but for those given as numbers."""

    def __init__(self) -> None:
        self._points, self._polygon_ends, self._parts = array("d"), array("q"), array("q")
        self._codes, self._code_ends = bytearray(), array("q")

    def read(self, segmentation: Raw, height: int, width: int) -> None:
        """Take in the mask of one annotation of an image of ``height`` x ``width``.

        A code may stand alone in a list, and empty polygons beside others count for nothing.

        Raises FieldError for no mask, or what is none.
        """
        found = decode(_DECODER, segmentation, "annotations[]", _PATH)
        if isinstance(found, list):
            found = [part for part in found if part]
        if not found:
            raise FieldError("annotation without a mask, which MODEL.MASK_ON needs", _PATH)
        if isinstance(found, list) and len(found) == 1 and isinstance(found[0], RunLengthFields):
            found = found[0]
        if isinstance(found, RunLengthFields):
            self._codes += _code(found, height, width)
            return
        for polygon in found:
            if isinstance(polygon, RunLengthFields):
                raise FieldError("several run-length codes for one annotation", _PATH)
            if len(polygon) < _LEAST or len(polygon) % 2:
                raise FieldError("polygon under 3 points", _PATH, shortened(repr(polygon)))
        for polygon in found:
            self._points.extend(polygon)
            self._polygon_ends.append(len(self._points))

    def close_row(self) -> None:
        """Go on to the next annotation, whether this one has a mask or not."""
        self._parts.append(len(self._polygon_ends))
        self._code_ends.append(len(self._codes))

    def masks(self) -> Masks:
        """The columns that were collected."""
        return Masks(
            polygons=Ragged(
                np.frombuffer(self._points, np.float64), np.frombuffer(self._polygon_ends, np.int64)
            ),
            parts=np.frombuffer(self._parts, np.int64),
            codes=Ragged(np.frombuffer(self._codes, np.uint8), np.frombuffer(self._code_ends, np.int64)),
        )


def _code(found: RunLengthFields, height: int, width: int) -> bytes:
    if list(found.size) != [height, width]:
        detail = f"{found.size[0]:g}x{found.size[1]:g}, height first, in {height}x{width}"
        raise FieldError("run-length code of another size than its image", f"{_PATH}.size", shortened(detail))
    try:
        if isinstance(found.counts, str):
            if not found.counts:  # it would read as no mask at all
                raise ValueError
            return found.counts.encode("ascii")
        return compress([_whole(run) for run in found.counts], height, width)
    except ValueError:
        raise FieldError("run-length code that does not cover its image", f"{_PATH}.counts") from None


def _whole(run: float) -> int:
    if not run.is_integer():
        raise ValueError(f"a run of {run}")
    return int(run)
