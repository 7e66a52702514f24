"""torchvision's ResNet files: our names but for the stem."""

from __future__ import annotations

from backbones.weights.rules import Lineage, Rule

LINEAGE = Lineage(
    name="torchvision",
    marks=("conv1.weight", "backbone.body.conv1.weight"),
    rules=(
        Rule("backbone.body.conv1.{leaf}", "backbone.body.stem.conv1.{leaf}"),
        Rule("backbone.body.bn1.{leaf}", "backbone.body.stem.bn1.{leaf}"),
        Rule("backbone.body.layer{s}.{b}.{rest}", "backbone.body.layer{s}.{b}.{rest}"),
    ),
    prefixes=("", "backbone.body."),
)
