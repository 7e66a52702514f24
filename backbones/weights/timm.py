"""timm's files: ResNets under torchvision's names, and any model for the same model as a body.

Some of timm's extractors join the first two parts of a name, ``stages.0`` to ``stages_0``.
"""

from __future__ import annotations

from backbones.weights.rules import Lineage, Rule
from backbones.weights.torchvision import BODY, refusal, with_counters

LINEAGE = Lineage(
    name="timm",
    marks=("{rest}",),
    rules=(
        *BODY,
        refusal(
            "backbone.body.conv1.0.weight",
            "backbone.body.stem.conv1.weight",
            "a timm ResNet with a stem of three convolutions (conv1.0), such as resnet50d; R-* bodies have "
            "one: set MODEL.BACKBONE.CONV_BODY to timm/ and the model's name",
        ),
        Rule("{name}.{i}.{rest}", "backbone.body.net.{name}_{i}.{rest}"),
        Rule("{rest}", "backbone.body.net.{rest}"),
    ),
    prefixes=("", "backbone.body."),
    finish=with_counters,
    cuts_bodies=True,
)
