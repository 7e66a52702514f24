"""The stages of every published depth and neck: what STAGE_SPECS holds, and how a config finds its own."""

from __future__ import annotations

from backbones.spec import StageSpec
from registry import STAGE_SPECS, Config, parse_conv_body

STAGE_NAMES_KEY = "MODEL.BACKBONE.CONV_BODY"

#: Blocks of stages 1 to 4 (He et al. 2015, table 1).
BLOCK_COUNTS = {
    "R-18": (2, 2, 2, 2),
    "R-34": (3, 4, 6, 3),
    "R-50": (3, 4, 6, 3),
    "R-101": (3, 4, 23, 3),
    "R-152": (3, 8, 36, 3),
}
_BASIC = ("R-18", "R-34")

#: Which stages each neck needs, and which of them it sees; "" is the body without a neck.
_RETURNED = {
    "": (True, True, True, True),
    "-C4": (False, False, True),
    "-C5": (False, False, False, True),
    "-FPN": (True, True, True, True),
    "-FPN-RETINANET": (True, True, True, True),
}

for _name, _counts in BLOCK_COUNTS.items():
    for _neck, _flags in _RETURNED.items():
        _specs = tuple(
            StageSpec(index, count, returned, basic=_name in _BASIC)
            for index, (count, returned) in enumerate(zip(_counts, _flags, strict=False), start=1)
        )
        STAGE_SPECS.register(_name + _neck, _specs)


def stage_specs(cfg: Config) -> tuple[StageSpec, ...]:
    """The stages of the configured body: those of the whole CONV_BODY name, else those of the body in it.

    Raises:
        UnknownNameError: STAGE_SPECS has neither.
    """
    name = cfg.MODEL.BACKBONE.CONV_BODY
    if name in STAGE_SPECS:
        return tuple(STAGE_SPECS[name])
    return tuple(STAGE_SPECS.get(parse_conv_body(name).body, origin=STAGE_NAMES_KEY))


def last_stage(cfg: Config) -> StageSpec:
    """Stage 4 of the configured body, which a C4 body leaves to the detection head."""
    specs = tuple(STAGE_SPECS.get(parse_conv_body(cfg.MODEL.BACKBONE.CONV_BODY).body, origin=STAGE_NAMES_KEY))
    return specs[-1]
