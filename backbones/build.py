"""``build_backbone``: a CONV_BODY name becomes body and neck, frozen as configured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from backbones.activation_checkpoint import CHECKPOINT_KEY, checkpoint_stages
from backbones.freeze import FREEZE_KEY, freeze, freeze_unused
from backbones.layers.quick_conv import quicken
from backbones.memory_format import AUTO, MEMORY_FORMAT_KEY, arranged, memory_format_from_cfg
from backbones.spec import Backbone, FeatureInfo, Stage
from registry import BACKBONES, BODIES, NECKS, Config, ConfigError, parse_conv_body
from registry.errors import describe_key

CONV_BODY = "MODEL.BACKBONE.CONV_BODY"


class Neck(Protocol):
    """What a neck builder ``(cfg, feature_info of the body) -> module`` gives: a module with these two
    members.

    It may also say in ``used`` which of the body's features it reads; without it, all.
    """

    feature_info: tuple[FeatureInfo, ...]

    def __call__(self, features: Sequence[Tensor]) -> list[Tensor]:
        """All features of the body, finest first -> features, finest first."""
        ...


#: Share of the convolutions' weights that makes a network quick.
_ENOUGH = 0.25


class BodyAndNeck(Backbone):
    """A body and, under the published name ``fpn``, the neck on it. Its stages are those of the body."""

    memory_format = AUTO  # of the images, before the body sees them, and so of all features
    quick = False  # whether enough of the convolutions are quick ones for AUTO to prefer what those read

    def __init__(self, body: Backbone, neck: Neck | None) -> None:
        super().__init__()
        self.body = body
        if neck is not None:
            self.fpn = neck
        self.feature_info = body.feature_info if neck is None else neck.feature_info

    @property
    def frozen_stages(self) -> int:
        """How many stages are frozen; kept by the body, which may be put to training on its own."""
        return self.body.frozen_stages

    @frozen_stages.setter
    def frozen_stages(self, count: int) -> None:
        self.body.frozen_stages = count

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> features, finest first."""
        features: list[Tensor] = self.body(arranged(x, self.memory_format, self.quick))
        return self.fpn(features) if hasattr(self, "fpn") else features

    def stages(self) -> list[Stage]:
        """The stages of the body: a neck is never frozen."""
        return self.body.stages()


def build_backbone(cfg: Config) -> nn.Module:
    """Builds what MODEL.BACKBONE.CONV_BODY names: a module (N, 3, H, W) -> list of features, finest first.

    The name is ``<body>-<neck>`` (R-50-FPN), a body alone, whose every feature is given, or a name registered
    whole. The first FREEZE_CONV_BODY_AT stages come frozen, and CHECKPOINT_STAGES keep no activations.
    Weights are random: see backbones.weights.

    Raises:
        UnknownNameError: no such body, neck, stem, block or norm.
        ConfigError: body and neck do not fit, there are fewer stages than are to be frozen, none of a name in
            CHECKPOINT_STAGES, or no such MEMORY_FORMAT.
    """
    name = cfg.MODEL.BACKBONE.CONV_BODY
    parsed = parse_conv_body(name, describe_key(cfg, CONV_BODY))
    if parsed.whole:
        backbone = BACKBONES[name](cfg)
    else:
        body = BODIES[parsed.body](cfg)
        neck = NECKS[parsed.neck](cfg, body.feature_info) if parsed.neck is not None else None
        if neck is not None:
            freeze_unused(body, getattr(neck, "used", body.feature_info))
        backbone = BodyAndNeck(body, neck)
    share, memory_format = quicken(backbone), memory_format_from_cfg(cfg)
    if isinstance(backbone, BodyAndNeck):
        backbone.memory_format, backbone.quick = memory_format, share >= _ENOUGH
    elif memory_format != AUTO:
        raise ConfigError(f"{name} is registered whole and says itself; set {AUTO}", MEMORY_FORMAT_KEY, cfg)
    at, recomputed = cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT, cfg.MODEL.BACKBONE.CHECKPOINT_STAGES
    if isinstance(backbone, Backbone):
        freeze(backbone, at, cfg)
        checkpoint_stages(backbone, recomputed, cfg)
    elif at > 0:
        raise ConfigError(f"{name} has no stages to freeze: it is not a Backbone; set 0", FREEZE_KEY, cfg)
    elif recomputed:
        raise ConfigError(f"{name} has no stages: it is not a Backbone; set ()", CHECKPOINT_KEY, cfg)
    if cfg.MODEL.COMPILE:  # when it is first called; names, weights and copies stay as they are
        backbone.compile(dynamic=True)
    return backbone
