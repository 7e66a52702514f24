"""Cutting a large picture, and the boxes on it, into tiles."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """A rectangle of a picture in whole pixels; ``right`` and ``bottom`` are outside of it."""

    left: int
    top: int
    right: int
    bottom: int


def partition(width: int, height: int, tile: int) -> list[Window]:
    """Windows of about ``tile`` pixels that hold every pixel once, row by row: for testing."""
    columns, rows = _cuts(width, tile), _cuts(height, tile)
    return [
        Window(left, top, right, bottom)
        for top, bottom in zip(rows, rows[1:], strict=False)
        for left, right in zip(columns, columns[1:], strict=False)
    ]


def cover(width: int, height: int, tile: int, overlap: int) -> list[Window]:
    """Windows of ``tile`` pixels, evenly spaced, neighbours sharing at least ``overlap``. For training.

    A picture smaller than a tile gives one window of its own size.
    """
    return [
        Window(left, top, min(left + tile, width), min(top + tile, height))
        for top in _starts(height, tile, overlap)
        for left in _starts(width, tile, overlap)
    ]


def clip_boxes(boxes: np.ndarray, window: Window, min_visible: float) -> np.ndarray:
    """The boxes (N, 4) xyxy cut at the border of ``window`` and counted from its corner.

    A box stays where at least the fraction ``min_visible`` of its area is inside.
    """
    low, high = np.array(window[:2]), np.array(window[2:])
    clipped = np.concatenate([boxes[:, :2].clip(low, high), boxes[:, 2:].clip(low, high)], axis=1)
    visible = np.prod(clipped[:, 2:] - clipped[:, :2], axis=1)
    whole = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept = (visible > 0) & (visible >= min_visible * whole)
    return clipped[kept] - np.tile(low, 2)


def _cuts(length: int, tile: int) -> list[int]:
    count = max(1, round(length / tile))
    return [round(length * i / count) for i in range(count + 1)]


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    if length <= tile:
        return [0]
    count = math.ceil((length - tile) / (tile - overlap)) + 1
    return [round((length - tile) * i / (count - 1)) for i in range(count)]
