"""The registries of backbones. What ships with it is listed in :mod:`registry.builtin`."""

from __future__ import annotations

from typing import Any

from registry.core import Registry

#: Whole CONV_BODY names -> ``builder(cfg) -> module``, for backbones that are not a body plus a neck.
BACKBONES: Registry[Any] = Registry("backbone", "convbody.backbones", "python tools/list_backbones.py")
#: The part of a CONV_BODY before the neck -> ``builder(cfg) -> Backbone``.
BODIES: Registry[Any] = Registry("backbone body", "convbody.bodies")
#: The part after the body -> ``builder(cfg, feature_info) -> neck``.
NECKS: Registry[Any] = Registry("neck", "convbody.necks")
#: First layers of a ResNet, MODEL.RESNETS.STEM_FUNC.
STEM_MODULES: Registry[Any] = Registry("ResNet stem", "convbody.stems")
#: Residual blocks of a ResNet, MODEL.RESNETS.TRANS_FUNC.
TRANSFORMATION_MODULES: Registry[Any] = Registry("ResNet block", "convbody.transformations")
#: Stages of a ResNet by CONV_BODY or by body name -> tuple of StageSpec.
STAGE_SPECS: Registry[Any] = Registry("stage spec", "convbody.stage_specs")
#: Normalisation layers -> ``constructor(channels)``.
NORMS: Registry[Any] = Registry("norm", "convbody.norms")
#: Blocks that an FBNet architecture names -> ``Primitive``.
FBNET_PRIMITIVES: Registry[Any] = Registry("FBNet primitive", "convbody.fbnet_primitives")
#: FBNet architectures, MODEL.FBNET.ARCH -> path of a YAML file, or the mapping that it would hold.
FBNET_ARCHS: Registry[Any] = Registry("FBNet architecture", "convbody.fbnet_archs")
