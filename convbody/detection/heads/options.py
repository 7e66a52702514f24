"""Config values that torchvision's parts take on trust, checked."""

from __future__ import annotations

import sys

from registry import Config, ConfigError
from registry.tree import value_of


def iou_thresholds(cfg: Config, section: str) -> tuple[float, float]:
    """(FG_IOU_THRESHOLD, BG_IOU_THRESHOLD) of ``section``.

    Raises:
        ConfigError: the foreground would begin below the background's end.
    """
    node = value_of(cfg, section)
    if node.BG_IOU_THRESHOLD > node.FG_IOU_THRESHOLD:
        raise ConfigError(
            f"background would reach above foreground, which begins at {node.FG_IOU_THRESHOLD}",
            f"{section}.BG_IOU_THRESHOLD",
            cfg,
        )
    return node.FG_IOU_THRESHOLD, node.BG_IOU_THRESHOLD


def class_count(cfg: Config, section: str) -> int:
    """NUM_CLASSES of ``section``, the background included.

    Raises:
        ConfigError: there is no class beside the background.
    """
    count: int = value_of(cfg, section).NUM_CLASSES
    if count < 2:
        raise ConfigError(
            "the background is one class, so that there must be two or more", f"{section}.NUM_CLASSES", cfg
        )
    return count


def overlap_limit(value: float) -> float:
    """The IoU above which a box is suppressed. 0 or less suppresses none, as published."""
    return value if value > 0 else 1.0


def count_limit(value: int) -> int:
    """How many boxes are kept. 0 or less keeps all, as published."""
    return value if value > 0 else sys.maxsize


def refuse_augmentation(cfg: Config) -> None:
    """Raises ConfigError when TEST.BBOX_AUG is on, for a detector without a second stage."""
    if cfg.TEST.BBOX_AUG.ENABLED:
        raise ConfigError(
            "test-time augmentation is for two-stage detectors; set it to False", "TEST.BBOX_AUG.ENABLED", cfg
        )
