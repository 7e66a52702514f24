"""Boxes cut at the border of their image, and the order of mirrored keypoints."""

from __future__ import annotations

from collections.abc import Sequence

from convbody.detection.data.records import Box

#: Sides of a box as a fraction of the image's: below, float32 coordinates hardly tell its edges apart.
THINNEST = 2.0**-20


def clip_box(box: Box, height: int, width: int) -> Box:
    """A box (left, top, width, height) as (left, top, right, bottom) in pixels, cut at the image's border."""
    left, top, box_width, box_height = box
    right, bottom = left + box_width, top + box_height
    return max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))


def has_area(box: Box, height: int, width: int) -> bool:
    """Whether anything of a clipped box is left that float32 coordinates can tell from nothing."""
    least = THINNEST * max(height, width)
    return box[2] - box[0] > least and box[3] - box[1] > least


def flip_order(names: Sequence[str]) -> list[int]:
    """Where each keypoint finds its mirror image: ``left_eye`` and ``right_eye`` change places."""
    swap = {"left": "right", "right": "left"}
    mirrored = ["_".join(swap.get(word, word) for word in name.split("_")) for name in names]
    return [names.index(name) if name in names else position for position, name in enumerate(mirrored)]
