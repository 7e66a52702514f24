"""Blob names of Caffe2 and Detectron: ImageNet ResNets and trained detectors, with affine or group norms.

A blob of the body is ``res<stage>_<block>_<branch>_<what>``. Batch norm of these files is folded into a scale
and a shift (``_bn_s``, ``_bn_b``). Detectron names the FPN's convolutions after the block that feeds them,
the last of its stage, and heads that several levels share after the finest level (``_fpn2``, ``_fpn3``).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from backbones.weights.retinanet import scale_deltas, swap_anchors, unscale_deltas
from backbones.weights.rules import Lineage, Rule, State
from registry import ConvbodyError

_BRANCHES = {
    "branch2a": ("conv1", "bn1"),
    "branch2b": ("conv2", "bn2"),
    "branch2c": ("conv3", "bn3"),
    "branch1": ("downsample.0", "downsample.1"),
}

#: Last block of each stage, in R-152, R-101 and R-50: the deepest first.
_LAST_BLOCKS = {1: (2,), 2: (7, 3), 3: (35, 22, 5), 4: (2,)}

_CONV = (("w", "weight"), ("b", "bias"))
_NORM = (("s", "weight"), ("b", "bias"))
#: What some files call the blobs of a batch norm.
_SPELLINGS = {"gamma": "s", "beta": "b", "running_mean": "rm", "running_var": "riv"}

_RPN_OF_C4 = Rule("conv_rpn_w", "rpn.head.conv.0.0.weight")
_FIRST_OF_4CONV_GN = Rule("head_conv1_gn_s", "roi_heads.box_head.xconvs.1.weight")


def _body() -> Iterator[Rule]:
    yield Rule("conv1_w", "backbone.body.stem.conv1.weight")
    yield from _norm("res_conv1_bn", "conv1_gn", "backbone.body.stem.bn1")
    # The head of a C4 detector is stage 4 of its ResNet.
    yield from _blocks("res5_{b}", "roi_heads.box_head.head.layer4.{b}", (_RPN_OF_C4,))
    yield from _blocks("_[mask]_res5_{b}", "roi_heads.mask_head.head.layer4.{b}")
    yield from _blocks("_[pose]_res5_{b}", "roi_heads.keypoint_head.head.layer4.{b}")
    yield from _blocks("res{s+1}_{b}", "backbone.body.layer{s}.{b}")


def _blocks(theirs: str, ours: str, beside: tuple[Rule, ...] = ()) -> Iterator[Rule]:
    for branch, (conv, norm) in _BRANCHES.items():
        yield Rule(f"{theirs}_{branch}_w", f"{ours}.{conv}.weight", beside=beside)
        yield from _norm(f"{theirs}_{branch}_bn", f"{theirs}_{branch}_gn", f"{ours}.{norm}", beside)


def _norm(batch: str, group: str, ours: str, beside: tuple[Rule, ...] = ()) -> Iterator[Rule]:
    """A batch norm has statistics, a group norm has not."""
    mean = Rule(f"{batch}_rm", f"{ours}.running_mean", beside=beside)
    yield from (mean, Rule(f"{batch}_riv", f"{ours}.running_var", beside=beside))
    for theirs, leaf in _NORM:
        yield Rule(f"{batch}_{theirs}", f"{ours}.{leaf}", beside=(*beside, mean))
    for theirs, leaf in _NORM:
        yield Rule(f"{group}_{theirs}", f"{ours}.{leaf}", beside=beside)


def _fpn() -> Iterator[Rule]:
    for stage, lasts in _LAST_BLOCKS.items():
        for last in lasts:
            at = f"res{stage + 1}_{last}"
            block = Rule(f"{at}_branch2c_w", f"backbone.body.layer{stage}.{last}.conv3.weight")
            # The coarsest stage starts the top-down path: there is nothing to add its convolution to.
            lateral = "_lateral" if stage < 4 else ""
            yield from _conv_gn(f"fpn_inner_{at}_sum{lateral}", f"backbone.fpn.fpn_inner{stage}", block)
            yield from _conv_gn(f"fpn_{at}_sum", f"backbone.fpn.fpn_layer{stage}", block)
    for theirs, leaf in _CONV:
        yield Rule(f"fpn_6_{theirs}", f"backbone.fpn.top_blocks.p6.{leaf}")
        yield Rule(f"fpn_7_{theirs}", f"backbone.fpn.top_blocks.p7.{leaf}")


def _conv_gn(theirs: str, ours: str, block: Rule) -> Iterator[Rule]:
    """A convolution, or a sequence of a convolution and a group norm."""
    scale = Rule(f"{theirs}_gn_s", f"{ours}.1.weight", beside=(block,))
    yield scale
    yield Rule(f"{theirs}_gn_b", f"{ours}.1.bias", beside=(block,))
    yield Rule(f"{theirs}_w", f"{ours}.0.weight", beside=(block, scale))
    for letter, leaf in _CONV:
        yield Rule(f"{theirs}_{letter}", f"{ours}.{leaf}", beside=(block,))


def _rpn() -> Iterator[Rule]:
    names = {"conv_rpn": "conv.0.0", "rpn_cls_logits": "cls_logits", "rpn_bbox_pred": "bbox_pred"}
    coarsest = (
        Rule("fpn_inner_res5_2_sum_w", "backbone.fpn.fpn_inner4.0.weight"),
        Rule("fpn_inner_res5_2_sum_w", "backbone.fpn.fpn_inner4.weight"),
    )
    for theirs, ours in names.items():
        for letter, leaf in _CONV:
            for fpn in coarsest:
                yield Rule(f"{theirs}_fpn2_{letter}", f"rpn.head.{ours}.{leaf}", beside=(fpn,))
            yield Rule(f"{theirs}_{letter}", f"rpn.head.{ours}.{leaf}")


def _roi_heads() -> Iterator[Rule]:
    for theirs, leaf in _NORM:
        ours = "roi_heads.box_head.xconvs.{i*3+1}." + leaf
        yield Rule(f"head_conv{{i+1}}_gn_{theirs}", ours, beside=(_FIRST_OF_4CONV_GN,))
        yield Rule(f"_mask_fcn{{i+1}}_gn_{theirs}", f"roi_heads.mask_head.{{i}}.1.{leaf}")
    ours = "roi_heads.box_head.xconvs.{i*3}.weight"
    yield Rule("head_conv{i+1}_w", ours, beside=(_FIRST_OF_4CONV_GN,))
    mask_norm = Rule("_mask_fcn{i+1}_gn_s", "roi_heads.mask_head.{i}.1.weight")
    yield Rule("_mask_fcn{i+1}_w", "roi_heads.mask_head.{i}.0.weight", beside=(mask_norm,))
    names = {
        "fc6": "box_head.fc6",
        "fc7": "box_head.fc7",
        "head_conv{i+1}": "box_head.xconvs.{i*2}",
        "cls_score": "box_predictor.cls_score",
        "bbox_pred": "box_predictor.bbox_pred",
        "_[mask]_fcn{i+1}": "mask_head.{i}.0",
        "conv5_mask": "mask_predictor.conv5_mask",
        "mask_fcn_logits": "mask_predictor.mask_fcn_logits",
        "conv_fcn{i+1}": "keypoint_head.{i*2}",
        "kps_score_lowres": "keypoint_predictor.kps_score_lowres",
    }
    for theirs, ours in names.items():
        for letter, leaf in _CONV:
            yield Rule(f"{theirs}_{letter}", f"roi_heads.{ours}.{leaf}")


def _retinanet() -> Iterator[Rule]:
    for letter, leaf in _CONV:
        for theirs, ours in {"cls": "classification", "bbox": "regression"}.items():
            yield Rule(f"retnet_{theirs}_conv_n{{i}}_fpn3_{letter}", f"head.{ours}_head.conv.{{i}}.0.{leaf}")
        yield Rule(
            f"retnet_cls_pred_fpn3_{letter}",
            f"head.classification_head.cls_logits.{leaf}",
            to_ours=swap_anchors,
            to_theirs=swap_anchors,
        )
        yield Rule(
            f"retnet_bbox_pred_fpn3_{letter}",
            f"head.regression_head.bbox_reg.{leaf}",
            to_ours=lambda tensor: scale_deltas(swap_anchors(tensor)),
            to_theirs=lambda tensor: swap_anchors(unscale_deltas(tensor)),
        )


def with_statistics(state: State) -> State:
    """Adds the statistics that folded norms imply: a scale without them is one of mean 0 and variance 1."""
    blobs = {_usual(name): tensor for name, tensor in state.items()}
    for name, scale in list(blobs.items()):
        if name.endswith("_bn_s"):
            blobs.setdefault(f"{name[:-1]}rm", torch.zeros_like(scale))
            blobs.setdefault(f"{name[:-1]}riv", torch.ones_like(scale))
    return blobs


def _usual(name: str) -> str:
    norm, separator, what = name.rpartition("_bn_")
    return f"{norm}{separator}{_SPELLINGS.get(what, what)}"


def without_statistics(state: State) -> State:
    """Takes statistics away again.

    Raises:
        ConvbodyError: some are not mean 0 and variance 1, and Detectron would leave them out of account.
    """
    implied = {"rm": 0, "riv": 1}
    kept = {}
    for name, tensor in state.items():
        value = implied.get(name.rpartition("_bn_")[2])
        if value is None:
            kept[name] = tensor
        elif not bool((tensor == value).all()):
            raise ConvbodyError(
                f"{name} is not {value} throughout, and the norms of a Caffe2 file have no statistics; only "
                "weights that came from such a file can be written as one"
            )
    return kept


LINEAGE = Lineage(
    name="caffe2",
    marks=("conv1_w", "res{s}_{b}_branch2a_w"),
    rules=(*_body(), *_fpn(), *_rpn(), *_roi_heads(), *_retinanet()),
    ignored=("lr", "{rest}_momentum"),
    complete=with_statistics,
    finish=without_statistics,
)
