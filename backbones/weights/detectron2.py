"""Names of detectron2: ResNets as a backbone, under an FPN (``bottom_up``) or alone as in ImageNet files."""

from __future__ import annotations

from collections.abc import Iterator

from backbones.weights.rules import Lineage, Rule

_FPN = (
    Rule("backbone.fpn_lateral5.weight", "backbone.fpn.fpn_inner4.weight"),
    Rule("backbone.fpn_lateral5.weight", "backbone.fpn.fpn_inner4.0.weight"),
)


def _body(root: str, beside: tuple[Rule, ...] = ()) -> Iterator[Rule]:
    ours = "backbone.body.layer{s}.{b}"
    theirs = root + "res{s+1}.{b}"
    for there, here in (
        (f"{root}stem.conv1.norm", "backbone.body.stem.bn1"),
        (f"{root}stem.conv1", "backbone.body.stem.conv1"),
        (f"{theirs}.shortcut.norm", f"{ours}.downsample.1"),
        (f"{theirs}.shortcut", f"{ours}.downsample.0"),
        (f"{theirs}.conv{{i}}.norm", f"{ours}.bn{{i}}"),
        (f"{theirs}.conv{{i}}", f"{ours}.conv{{i}}"),
    ):
        yield Rule(f"{there}.{{leaf}}", f"{here}.{{leaf}}", beside=beside)


def _fpn() -> Iterator[Rule]:
    for there, here in (("lateral", "inner"), ("output", "layer")):
        theirs, ours = f"backbone.fpn_{there}{{s+1}}", f"backbone.fpn.fpn_{here}{{s}}"
        norm = Rule(f"{theirs}.norm.weight", f"{ours}.1.weight")
        yield Rule(f"{theirs}.norm.{{leaf}}", f"{ours}.1.{{leaf}}")
        yield Rule(f"{theirs}.{{leaf}}", f"{ours}.0.{{leaf}}", beside=(norm,))
        yield Rule(f"{theirs}.{{leaf}}", f"{ours}.{{leaf}}")
    for level in ("p6", "p7"):
        yield Rule(f"backbone.top_block.{level}.{{leaf}}", f"backbone.fpn.top_blocks.{level}.{{leaf}}")


LINEAGE = Lineage(
    name="detectron2",
    marks=("stem.conv1.norm.weight", "backbone.stem.conv1.norm.weight", "backbone.bottom_up.{rest}"),
    rules=(
        *(rule for fpn in _FPN for rule in _body("backbone.bottom_up.", (fpn,))),
        *_body("backbone."),
        *_fpn(),
    ),
    prefixes=("", "backbone."),
)
