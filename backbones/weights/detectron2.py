"""Names of detectron2: its ResNets and FPNs, alone as in ImageNet files or in R-CNNs and RetinaNets.

detectron2 counts the background last where it counts it at all: among the scores of boxes, but not among
boxes and masks. The anchors of a cell stand size by size the ratios of each; here, ratio by ratio the sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from backbones.weights.retinanet import scale_deltas, swap_anchors, unscale_deltas
from backbones.weights.rules import Lineage, Rule
from registry import ConvbodyError

_RATIOS = 3

#: What a detector with an FPN has.
_FPN = (
    Rule("backbone.fpn_lateral5.weight", "backbone.fpn.fpn_inner4.weight"),
    Rule("backbone.fpn_lateral5.weight", "backbone.fpn.fpn_inner4.0.weight"),
)


def by_ratio(tensor: Tensor, outputs: int) -> Tensor:
    """An RPN's (sizes * 3 * outputs, ...), sizes outermost -> (3 * sizes * outputs, ...), ratios outermost.

    Raises:
        ConvbodyError: the anchors are not of 3 ratios.
    """
    return _swapped(tensor, outputs, (-1, _RATIOS))


def by_size(tensor: Tensor, outputs: int) -> Tensor:
    """The inverse of :func:`by_ratio`."""
    return _swapped(tensor, outputs, (_RATIOS, -1))


def _swapped(tensor: Tensor, outputs: int, sizes: tuple[int, int]) -> Tensor:
    anchors = tensor.shape[0] // outputs
    if anchors % _RATIOS:
        raise ConvbodyError(
            f"an RPN with {anchors} anchors in a cell of its only feature map: the order of anchors can be "
            f"converted for {_RATIOS} ratios alone"
        )
    by_anchor = tensor.unflatten(0, (anchors, outputs)).unflatten(0, sizes)
    return by_anchor.transpose(0, 1).flatten(0, 2).contiguous()


def background_first(tensor: Tensor) -> Tensor:
    """(classes, background) along the first dimension -> (background, classes)."""
    return tensor.roll(1, dims=0)


def background_last(tensor: Tensor) -> Tensor:
    """The inverse of :func:`background_first`."""
    return tensor.roll(-1, dims=0)


def with_background(tensor: Tensor, outputs: int) -> Tensor:
    """Rows of all classes -> the same after those of the background, which nothing reads: zeros."""
    return torch.cat((torch.zeros_like(tensor[:outputs]), tensor))


def without_background(tensor: Tensor, outputs: int) -> Tensor:
    """The rows of all classes but the background, the first."""
    return tensor[outputs:]


def _body(root: str, beside: tuple[Rule, ...] = ()) -> Iterator[Rule]:
    for there, here in (("stem.conv1.norm", "stem.bn1"), ("stem.conv1", "stem.conv1")):
        yield Rule(f"{root}{there}.{{leaf}}", f"backbone.body.{here}.{{leaf}}", beside=beside)
    yield from _blocks(root + "res{s+1}.{b}", "backbone.body.layer{s}.{b}", beside)


def _blocks(theirs: str, ours: str, beside: tuple[Rule, ...] = ()) -> Iterator[Rule]:
    offset = Rule(f"{theirs}.conv2_offset.weight", f"{ours}.conv2.offset.weight")
    yield Rule(f"{theirs}.conv2.weight", f"{ours}.conv2.conv.weight", beside=(*beside, offset))
    for there, here in (
        ("conv2_offset", "conv2.offset"),
        ("shortcut.norm", "downsample.1"),
        ("shortcut", "downsample.0"),
        ("conv{i}.norm", "bn{i}"),
        ("conv{i}", "conv{i}"),
    ):
        yield Rule(f"{theirs}.{there}.{{leaf}}", f"{ours}.{here}.{{leaf}}", beside=beside)


def _fpn() -> Iterator[Rule]:
    for there, here in (("lateral", "inner"), ("output", "layer")):
        theirs, ours = f"backbone.fpn_{there}{{s+1}}", f"backbone.fpn.fpn_{here}{{s}}"
        yield from _conv_norm(theirs, f"{ours}.0", f"{ours}.1")
        yield Rule(f"{theirs}.{{leaf}}", f"{ours}.{{leaf}}")
    for level in ("p6", "p7"):
        yield Rule(f"backbone.top_block.{level}.{{leaf}}", f"backbone.fpn.top_blocks.{level}.{{leaf}}")


def _conv_norm(theirs: str, conv: str, norm: str) -> Iterator[Rule]:
    """A convolution with a norm after it."""
    scale = Rule(f"{theirs}.norm.weight", f"{norm}.weight")
    yield Rule(f"{theirs}.norm.{{leaf}}", f"{norm}.{{leaf}}")
    yield Rule(f"{theirs}.{{leaf}}", f"{conv}.{{leaf}}", beside=(scale,))


def _rpn() -> Iterator[Rule]:
    theirs, ours = "proposal_generator.rpn_head", "rpn.head"
    yield Rule(f"{theirs}.conv.{{leaf}}", f"{ours}.conv.0.0.{{leaf}}")
    for there, here, outputs in (("objectness_logits", "cls_logits", 1), ("anchor_deltas", "bbox_pred", 4)):
        # An FPN has anchors of one size on each of its maps: there is no order.
        for fpn in _FPN:
            yield Rule(f"{theirs}.{there}.{{leaf}}", f"{ours}.{here}.{{leaf}}", beside=(fpn,))
        yield Rule(
            f"{theirs}.{there}.{{leaf}}",
            f"{ours}.{here}.{{leaf}}",
            to_ours=partial(by_ratio, outputs=outputs),
            to_theirs=partial(by_size, outputs=outputs),
        )


def _roi_heads() -> Iterator[Rule]:
    yield from _blocks("roi_heads.res5.{b}", "roi_heads.box_head.head.layer4.{b}")
    box = "roi_heads.box_head"
    # Every convolution here is followed by a ReLU, which has a number, too.
    first = Rule(f"{box}.conv1.norm.weight", f"{box}.xconvs.1.weight")
    yield Rule(f"{box}.conv{{i+1}}.norm.{{leaf}}", f"{box}.xconvs.{{i*3+1}}.{{leaf}}", beside=(first,))
    yield Rule(f"{box}.conv{{i+1}}.{{leaf}}", f"{box}.xconvs.{{i*3}}.{{leaf}}", beside=(first,))
    yield Rule(f"{box}.conv{{i+1}}.{{leaf}}", f"{box}.xconvs.{{i*2}}.{{leaf}}")
    yield Rule(f"{box}.fc{{i+1}}.{{leaf}}", f"{box}.fc{{i+6}}.{{leaf}}")
    yield Rule(
        "roi_heads.box_predictor.cls_score.{leaf}",
        "roi_heads.box_predictor.cls_score.{leaf}",
        to_ours=background_first,
        to_theirs=background_last,
    )
    for there, here, outputs in (
        ("box_predictor.bbox_pred", "box_predictor.bbox_pred", 4),
        ("mask_head.predictor", "mask_predictor.mask_fcn_logits", 1),
    ):
        yield Rule(
            f"roi_heads.{there}.{{leaf}}",
            f"roi_heads.{here}.{{leaf}}",
            to_ours=partial(with_background, outputs=outputs),
            to_theirs=partial(without_background, outputs=outputs),
        )
    mask = "roi_heads.mask_head"
    yield from _conv_norm(f"{mask}.mask_fcn{{i+1}}", f"{mask}.{{i}}.0", f"{mask}.{{i}}.1")
    for there, here in (
        ("mask_head.mask_fcn{i+1}", "mask_head.{i}.0"),
        ("mask_head.deconv", "mask_predictor.conv5_mask"),
        ("keypoint_head.conv_fcn{i+1}", "keypoint_head.{i*2}"),
        ("keypoint_head.score_lowres", "keypoint_predictor.kps_score_lowres"),
    ):
        yield Rule(f"roi_heads.{there}.{{leaf}}", f"roi_heads.{here}.{{leaf}}")


def _retinanet() -> Iterator[Rule]:
    for there, here in (("cls_subnet", "classification_head"), ("bbox_subnet", "regression_head")):
        yield Rule(f"head.{there}.{{i*2}}.{{leaf}}", f"head.{here}.conv.{{i}}.0.{{leaf}}")
    yield Rule(
        "head.cls_score.{leaf}",
        "head.classification_head.cls_logits.{leaf}",
        to_ours=swap_anchors,
        to_theirs=swap_anchors,
    )
    yield Rule(
        "head.bbox_pred.{leaf}",
        "head.regression_head.bbox_reg.{leaf}",
        to_ours=lambda tensor: scale_deltas(swap_anchors(tensor)),
        to_theirs=lambda tensor: swap_anchors(unscale_deltas(tensor)),
    )


LINEAGE = Lineage(
    name="detectron2",
    marks=("stem.conv1.norm.weight", "backbone.stem.conv1.norm.weight", "backbone.bottom_up.{rest}"),
    rules=(
        *(rule for fpn in _FPN for rule in _body("backbone.bottom_up.", (fpn,))),
        *_body("backbone."),
        *_fpn(),
        *_rpn(),
        *_roi_heads(),
        *_retinanet(),
    ),
    prefixes=("", "backbone."),
    ignored=(
        "pixel_mean",
        "pixel_std",
        "proposal_generator.anchor_generator.cell_anchors.{i}",
        "anchor_generator.cell_anchors.{i}",
    ),
)
