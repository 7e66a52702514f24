"""Config keys of the TResNet family: MODEL.TRESNETS."""

from __future__ import annotations

from typing import Any

from registry import config_section, family_defaults


@config_section("MODEL.TRESNETS")
def tresnet_defaults() -> dict[str, Any]:
    """Keys of TResNet-M, -L, -XL and -L-V2."""
    return {
        # Any name in NORMS, for every norm of the body; ABN keeps the least memory in training.
        "NORM": "ABN",
        # Channels of the images.
        "IN_CHANNELS": 3,
        # Which of stages 1 to 4 have deformable 3x3 convolutions; only bottlenecks can.
        "STAGE_WITH_DCN": (False, False, False, False),
        # Modulated ones (v2): every tap also has a factor.
        "WITH_MODULATED_DCN": False,
        # Groups of input channels that are displaced on their own.
        "DEFORMABLE_GROUPS": 1,
    }


family_defaults(
    "TResNet-*",
    {
        # The published weights: RGB in [0, 1], not normalised further; batch norm with an epsilon.
        "INPUT.TO_BGR255": False,
        "INPUT.PIXEL_MEAN": [0.0, 0.0, 0.0],
        "INPUT.PIXEL_STD": [1.0, 1.0, 1.0],
        "MODEL.FROZEN_BN.EPSILON": 1e-5,
    },
)
