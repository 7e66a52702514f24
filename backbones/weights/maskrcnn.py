"""Names of maskrcnn-benchmark: our backbone's, and other names of the heads.

A C4 detector whose mask or keypoint head shares the box head's stage holds it under each head's name.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from backbones.weights.rules import Lineage, Rule, State

_BOX = "roi_heads.box.feature_extractor."
_FIRST_OF_TOWER = Rule("rpn.head.cls_tower.0.weight", "head.classification_head.conv.0.0.weight")
_MASK_NORM = Rule(
    "roi_heads.mask.feature_extractor.mask_fcn{i+1}.1.weight", "roi_heads.mask_head.{i}.1.weight"
)


def _retinanet() -> Iterator[Rule]:
    """RetinaNet's head is called ``rpn.head`` too; only its towers tell it from an RPN's."""
    for theirs, ours in {
        "cls_tower.{i*2}": "classification_head.conv.{i}.0",
        "bbox_tower.{i*2}": "regression_head.conv.{i}.0",
        "cls_logits": "classification_head.cls_logits",
        "bbox_pred": "regression_head.bbox_reg",
    }.items():
        yield Rule(f"rpn.head.{theirs}.{{leaf}}", f"head.{ours}.{{leaf}}", beside=(_FIRST_OF_TOWER,))


def _roi_heads() -> Iterator[Rule]:
    for theirs, ours, beside in (
        ("mask.feature_extractor.mask_fcn{i+1}.1.{leaf}", "mask_head.{i}.1.{leaf}", ()),
        ("mask.feature_extractor.mask_fcn{i+1}.0.{leaf}", "mask_head.{i}.0.{leaf}", (_MASK_NORM,)),
        ("mask.feature_extractor.mask_fcn{i+1}.{leaf}", "mask_head.{i}.0.{leaf}", ()),
        ("keypoint.feature_extractor.conv_fcn{i+1}.{leaf}", "keypoint_head.{i*2}.{leaf}", ()),
        ("mask.feature_extractor.head.{rest}", "mask_head.head.{rest}", ()),
        ("keypoint.feature_extractor.head.{rest}", "keypoint_head.head.{rest}", ()),
        ("box.feature_extractor.{rest}", "box_head.{rest}", ()),
        ("box.predictor.{rest}", "box_predictor.{rest}", ()),
        ("mask.predictor.{rest}", "mask_predictor.{rest}", ()),
        ("keypoint.predictor.{rest}", "keypoint_predictor.{rest}", ()),
    ):
        yield Rule(f"roi_heads.{theirs}", f"roi_heads.{ours}", beside=beside)


def without_copies(state: State) -> State:
    """Leaves out what the mask and keypoint heads hold of the box head's stage, where all of it is the same.

    A stage of their own shares its frozen norms alone with the box head's.
    """
    kept = dict(state)
    for head in ("mask", "keypoint"):
        own = f"roi_heads.{head}.feature_extractor.head."
        copies = {name: f"{_BOX}head.{name.removeprefix(own)}" for name in state if name.startswith(own)}
        if all(box in state and torch.equal(state[name], state[box]) for name, box in copies.items()):
            kept = {name: tensor for name, tensor in kept.items() if name not in copies}
    return kept


def with_copies(state: State) -> State:
    """Gives each head without a feature extractor, beside a box head that is a stage, that stage."""
    copied = dict(state)
    stage = {
        name.removeprefix(_BOX): value for name, value in state.items() if name.startswith(f"{_BOX}head.")
    }
    for head in ("mask", "keypoint"):
        own = f"roi_heads.{head}.feature_extractor."
        predicts = any(name.startswith(f"roi_heads.{head}.predictor.") for name in state)
        if predicts and not any(name.startswith(own) for name in state):
            copied.update({own + name: value for name, value in stage.items()})
    return copied


LINEAGE = Lineage(
    name="maskrcnn-benchmark",
    marks=(
        "rpn.head.conv.weight",
        "rpn.head.cls_tower.0.weight",
        "roi_heads.box.predictor.cls_score.weight",
        "rpn.anchor_generator.cell_anchors.{i}",
    ),
    rules=(
        Rule("backbone.{rest}", "backbone.{rest}"),
        *_retinanet(),
        Rule("rpn.head.conv.{leaf}", "rpn.head.conv.0.0.{leaf}"),
        Rule("rpn.head.{i}.{rest}", "rpn.head.{i}.{rest}"),  # FBNet's
        Rule("rpn.head.cls_logits.{leaf}", "rpn.head.cls_logits.{leaf}"),
        Rule("rpn.head.bbox_pred.{leaf}", "rpn.head.bbox_pred.{leaf}"),
        *_roi_heads(),
    ),
    ignored=("rpn.anchor_generator.cell_anchors.{i}",),
    complete=without_copies,
    finish=with_copies,
)
