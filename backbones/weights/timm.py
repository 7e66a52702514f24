"""timm's files: some extractors join the first two parts of a name, ``stages.0`` to ``stages_0``."""

from __future__ import annotations

from backbones.weights.rules import Lineage, Rule

LINEAGE = Lineage(
    name="timm",
    marks=("{rest}",),
    rules=(
        Rule("{name}.{i}.{rest}", "backbone.body.net.{name}_{i}.{rest}"),
        Rule("{rest}", "backbone.body.net.{rest}"),
    ),
    cuts_bodies=True,
)
