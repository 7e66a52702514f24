"""Freezing: one function for every family."""

from __future__ import annotations

from torch import nn

from backbones.spec import Backbone, FeatureInfo, Stage
from registry import Config, ConfigError

FREEZE_KEY = "MODEL.BACKBONE.FREEZE_CONV_BODY_AT"


def freeze(backbone: Backbone, at: int, cfg: Config | None = None) -> None:
    """Freezes the first ``at`` stages: 1 is the stem, n the stem and n - 1 stages; 0 or less freezes nothing.

    A frozen stage has no gradients, its normalisation statistics do not move, and nothing of it is kept for
    the backward pass. Freeze before wrapping in DistributedDataParallel. ``cfg`` only tells the error where
    ``at`` was set.

    Raises:
        ConfigError: ``at`` is beyond the last stage.
    """
    stages = backbone.stages()
    if at > len(stages):
        names = ", ".join(name for name, _ in stages)
        raise ConfigError(f"cannot freeze {at} stages: there are {len(stages)} ({names})", FREEZE_KEY, cfg)
    for module in _modules(stages[: max(at, 0)]):
        module.requires_grad_(False)
    backbone.frozen_stages = max(at, 0)
    backbone.train(backbone.training)


def freeze_unused(body: Backbone, used: tuple[FeatureInfo, ...]) -> None:
    """Switches off gradients of the stages behind the last feature that is used.

    They never get a gradient, and data-parallel training waits for every parameter that could.
    """
    names = [name for name, _ in body.stages()]
    last = max((names.index(info.name) for info in used if info.name in names), default=len(names))
    for module in _modules(body.stages()[last + 1 :]):
        module.requires_grad_(False)


def _modules(stages: list[Stage]) -> list[nn.Module]:
    return [module for _, modules in stages for module in modules]
