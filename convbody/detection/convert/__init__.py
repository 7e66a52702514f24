"""Configs of other projects, turned into this one's."""

from __future__ import annotations

from convbody.detection.convert.detectron2 import Conversion, convert_detectron2

__all__ = ["Conversion", "convert_detectron2"]
