"""Boxes from Pascal VOC's XML."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def voc_boxes(xml: bytes) -> np.ndarray:
    """The boxes float64 (N, 4) xyxy in pixels of one annotation file."""
    found = [
        [float(box.findtext(corner, "")) for corner in _CORNERS]
        for box in ElementTree.fromstring(xml).iterfind("object/bndbox")
    ]
    return np.array(found, np.float64).reshape(-1, 4)
