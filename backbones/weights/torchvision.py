"""Names of torchvision: ResNets, their FPNs, and detectors, whose heads are called as ours.

Old files, among them the published detectors, name some layers without the sequence that holds them today:
they are read, and written as today. RetinaNet and FCOS there have a class 0 that stands for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from backbones.weights.retinanet import scale_deltas, unscale_deltas
from backbones.weights.rules import Lineage, Rule, State
from registry import ConvbodyError

_ANCHORS = 9  # of a RetinaNet's cell
_NEVER = -20.0  # logit of a class that is never seen, a score of 2e-9

#: What tells detectors with the same names apart.
_P6 = Rule("backbone.fpn.extra_blocks.p6.weight", "backbone.fpn.top_blocks.p6.weight")
_FCOS = Rule("head.regression_head.bbox_ctrness.weight", "head.regression_head.bbox_ctrness.weight")

#: Rules for ResNets as torchvision and timm name them.
BODY = (
    Rule("backbone.body.conv1.{leaf}", "backbone.body.stem.conv1.{leaf}"),
    Rule("backbone.body.bn1.{leaf}", "backbone.body.stem.bn1.{leaf}"),
    Rule("backbone.body.layer{s}.{b}.{rest}", "backbone.body.layer{s}.{b}.{rest}"),
)


def refusal(theirs: str, ours: str, message: str) -> Rule:
    """A rule for files that hold something else in the place of ``ours``: reading them raises."""

    def refuse(tensor: Tensor) -> Tensor:
        raise ConvbodyError(message)

    return Rule(theirs, ours, to_ours=refuse)


def without_class_0(tensor: Tensor, anchors: int) -> Tensor:
    """Logits (anchors * (1 + classes), ...) -> (anchors * classes, ...).

    Raises:
        ConvbodyError: another number of anchors.
    """
    if tensor.shape[0] % anchors:
        raise ConvbodyError(
            f"RetinaNet's {tensor.shape[0]} class outputs are not those of {anchors} anchors in a cell, "
            "the only number that can be converted"
        )
    return tensor.unflatten(0, (anchors, -1))[:, 1:].flatten(0, 1)


def with_class_0(tensor: Tensor, anchors: int) -> Tensor:
    """Logits (anchors * classes, ...) -> (anchors * (1 + classes), ...), class 0 being never detected."""
    logits = tensor.unflatten(0, (anchors, -1))
    missing = torch.full_like(logits[:, :1], _NEVER if tensor.dim() == 1 else 0.0)
    return torch.cat((missing, logits), dim=1).flatten(0, 1)


def with_counters(state: State) -> State:
    """Adds the counters of batches that torch's batch norms have beside their statistics."""
    counters = {
        f"{name.removesuffix('.running_var')}.num_batches_tracked": torch.tensor(0)
        for name in state
        if name.endswith(".running_var")
    }
    return {**counters, **state}


def _fpn() -> Iterator[Rule]:
    for beside, stage in (((_P6,), "{i+2}"), ((), "{i+1}")):
        for there, here in (("inner", "inner"), ("layer", "layer")):
            theirs, ours = f"backbone.fpn.{there}_blocks.{{i}}", f"backbone.fpn.fpn_{here}{stage}"
            norm = Rule(f"{theirs}.1.weight", f"{ours}.1.weight")
            yield Rule(f"{theirs}.1.{{leaf}}", f"{ours}.1.{{leaf}}", beside=beside)
            yield Rule(f"{theirs}.0.{{leaf}}", f"{ours}.0.{{leaf}}", beside=(*beside, norm))
            yield Rule(f"{theirs}.0.{{leaf}}", f"{ours}.{{leaf}}", beside=beside)
            yield Rule(f"{theirs}.{{leaf}}", f"{ours}.{{leaf}}", beside=beside)
    for level in ("p6", "p7"):
        yield Rule(f"backbone.fpn.extra_blocks.{level}.{{leaf}}", f"backbone.fpn.top_blocks.{level}.{{leaf}}")


def _same(*names: str, beside: tuple[Rule, ...] = ()) -> Iterator[Rule]:
    for name in names:
        yield Rule(name, name, beside=beside)


def _rcnn() -> Iterator[Rule]:
    yield from _same("rpn.head.conv.0.0.{leaf}", "rpn.head.cls_logits.{leaf}", "rpn.head.bbox_pred.{leaf}")
    yield Rule("rpn.head.conv.{leaf}", "rpn.head.conv.0.0.{leaf}")
    yield from _same(
        "roi_heads.box_head.fc{i}.{leaf}",
        "roi_heads.box_predictor.{name}.{leaf}",
        "roi_heads.mask_head.{i}.0.{leaf}",
        "roi_heads.mask_predictor.{name}.{leaf}",
        "roi_heads.keypoint_head.{i}.{leaf}",
        "roi_heads.keypoint_predictor.{name}.{leaf}",
    )
    yield Rule("roi_heads.mask_head.mask_fcn{i+1}.{leaf}", "roi_heads.mask_head.{i}.0.{leaf}")
    yield refusal(
        "roi_heads.box_head.0.0.weight",
        "roi_heads.box_head.fc6.weight",
        "torchvision's *_resnet50_fpn_v2 detectors have batch norms in the box head and two convolutions in "
        "the RPN, which the heads here do not; load fasterrcnn_resnet50_fpn or maskrcnn_resnet50_fpn",
    )


def _one_stage() -> Iterator[Rule]:
    towers = ("head.classification_head", "head.regression_head")
    yield from _same(*(f"{tower}.conv.{{i}}.{{leaf}}" for tower in towers), beside=(_FCOS,))
    yield from _same("head.regression_head.bbox_ctrness.{leaf}")
    yield from _same("head.regression_head.bbox_reg.{leaf}", beside=(_FCOS,))
    yield _logits(1, (_FCOS,))
    for tower in towers:
        yield Rule(f"{tower}.conv.{{i}}.0.{{leaf}}", f"{tower}.conv.{{i}}.0.{{leaf}}")
        yield Rule(f"{tower}.conv.{{i*2}}.{{leaf}}", f"{tower}.conv.{{i}}.0.{{leaf}}")
        yield refusal(
            f"{tower}.conv.{{i}}.1.weight",
            f"{tower}.conv.{{i}}.0.bias",
            "torchvision's retinanet_resnet50_fpn_v2 has group norms in its towers, which RetinaNet here has "
            "not; load retinanet_resnet50_fpn",
        )
    yield _logits(_ANCHORS)
    yield Rule(
        "head.regression_head.bbox_reg.{leaf}",
        "head.regression_head.bbox_reg.{leaf}",
        to_ours=scale_deltas,
        to_theirs=unscale_deltas,
    )


def _logits(anchors: int, beside: tuple[Rule, ...] = ()) -> Rule:
    name = "head.classification_head.cls_logits.{leaf}"
    to_ours, to_theirs = partial(without_class_0, anchors=anchors), partial(with_class_0, anchors=anchors)
    return Rule(name, name, to_ours, to_theirs, beside)


LINEAGE = Lineage(
    name="torchvision",
    marks=("conv1.weight", "body.conv1.weight", "backbone.body.conv1.weight"),
    rules=(*BODY, *_fpn(), *_rcnn(), *_one_stage()),
    prefixes=("", "backbone.", "backbone.body."),
    finish=with_counters,
)
