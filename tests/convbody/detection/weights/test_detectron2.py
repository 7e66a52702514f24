"""detectron2's detectors: whole, and what their outputs stand for, computed as detectron2 does."""

import pickle
from math import sqrt

import pytest
import torch
from torch.nn import functional as F

from backbones.weights import load_weights
from backbones.weights.read import read_tensors
from backbones.weights.write import convert, write_tensors
from convbody.detection.heads.anchors import CONVENTIONS
from registry import ConvbodyError

NAMES = {
    "faster_c4": {
        "backbone.res4.5.conv3.norm.bias": "backbone.body.layer3.5.bn3.bias",
        "roi_heads.res5.0.shortcut.weight": "roi_heads.box_head.head.layer4.0.downsample.0.weight",
    },
    "mask_fpn": {
        "backbone.bottom_up.res4.5.conv3.norm.bias": "backbone.body.layer3.5.bn3.bias",
        "backbone.fpn_output2.weight": "backbone.fpn.fpn_layer1.weight",
        "proposal_generator.rpn_head.conv.weight": "rpn.head.conv.0.0.weight",
        "roi_heads.box_head.fc1.weight": "roi_heads.box_head.fc6.weight",
        "roi_heads.box_head.fc2.bias": "roi_heads.box_head.fc7.bias",
        "roi_heads.mask_head.mask_fcn2.weight": "roi_heads.mask_head.1.0.weight",
        "roi_heads.mask_head.deconv.bias": "roi_heads.mask_predictor.conv5_mask.bias",
    },
    "four_convs": {"roi_heads.box_head.conv4.weight": "roi_heads.box_head.xconvs.6.weight"},
    "mask_gn": {
        "roi_heads.box_head.conv4.norm.weight": "roi_heads.box_head.xconvs.10.weight",
        "roi_heads.mask_head.mask_fcn1.norm.weight": "roi_heads.mask_head.0.1.weight",
    },
    "keypoint": {
        "roi_heads.keypoint_head.conv_fcn3.weight": "roi_heads.keypoint_head.4.weight",
        "roi_heads.keypoint_head.score_lowres.bias": "roi_heads.keypoint_predictor.kps_score_lowres.bias",
    },
    "retinanet": {
        "head.bbox_subnet.6.weight": "head.regression_head.conv.3.0.weight",
        "backbone.top_block.p6.weight": "backbone.fpn.top_blocks.p6.weight",
    },
}
#: What is scaled, and what here has rows that nothing reads.
SCALED = "head.regression_head.bbox_reg"
BACKGROUND = {"roi_heads.box_predictor.bbox_pred": 4, "roi_heads.mask_predictor.mask_fcn_logits": 1}


@pytest.mark.parametrize(
    ("case", "suffix"),
    [
        *(("faster_c4", "pkl"), ("retinanet", "pkl"), ("mask_gn", "pth")),
        *(
            pytest.param(case, "pth", marks=pytest.mark.slow)
            for case in ("mask_fpn", "four_convs", "keypoint")
        ),
    ],
)
def test_every_tensor_goes_there_under_its_published_name_and_comes_back(detectors, tmp_path, case, suffix):
    model, target = detectors.build(case), detectors.build(case)
    detectors.fill(target.state_dict(), seed=1)
    file = tmp_path / f"model.{suffix}"
    write_tensors(convert(model.state_dict(), "detectron2").state, file, "detectron2")
    there, state = read_tensors(str(file)), model.state_dict()
    for theirs, ours in NAMES[case].items():
        assert torch.equal(there[theirs], state[ours])
    report = load_weights(target, file)
    assert (report.lineage, report.missing, report.unexpected, report.wrong_shape) == (
        "detectron2",
        (),
        (),
        (),
    )
    for name, tensor in state.items():
        found = target.state_dict()[name]
        rows = BACKGROUND.get(name.rpartition(".")[0], 0)
        if name.startswith(SCALED):
            torch.testing.assert_close(found, tensor, rtol=2e-7, atol=0)
        else:
            assert torch.equal(found[rows:], tensor[rows:]), name


def detectron2s_anchors(sizes, ratios=(0.5, 1.0, 2.0)):
    """Of the first cell, in detectron2's order: for each size, for each ratio."""
    boxes = [(size / sqrt(ratio), size * sqrt(ratio)) for size in sizes for ratio in ratios]
    return torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in boxes])


def constant(model, state, weight, bias, values, folder):
    """Our model with a file whose layer gives ``values``, in detectron2's order, at every place."""
    state[weight] = torch.zeros_like(state[weight])
    state[bias] = values.flatten()
    (folder / "model.pkl").write_bytes(
        pickle.dumps({"model": {k: v.numpy() for k, v in state.items()}, "__author__": "someone"})
    )
    assert not load_weights(model, folder / "model.pkl").wrong_shape


def test_the_outputs_of_a_c4_rpn_belong_to_detectron2s_anchors(detectors, tmp_path):
    """Deltas that say which anchor is meant: our decoder and anchors must make detectron2's boxes of them."""
    model = detectors.build("faster_c4").eval()
    anchors = detectron2s_anchors((32, 64, 128, 256, 512))
    deltas = torch.stack([torch.tensor([i / 20, -i / 30, i / 40, -i / 50]) for i in range(15)])
    state = convert(model.state_dict(), "detectron2").state
    prefix = "proposal_generator.rpn_head.anchor_deltas"
    constant(model, state, f"{prefix}.weight", f"{prefix}.bias", deltas, tmp_path)
    sides = anchors[:, 2:] - anchors[:, :2]
    centres, extents = deltas[:, :2] * sides, sides * deltas[:, 2:].exp()
    expected = torch.cat([centres - extents / 2, centres + extents / 2], dim=1)
    base = CONVENTIONS["detectron2"].cell(16, (32, 64, 128, 256, 512), (0.5, 1.0, 2.0))
    bias = model.rpn.head.bbox_pred.bias.detach().view(-1, 4)
    found = model.rpn.box_coder.decode_single(bias, base)
    assert_same_boxes(found, expected)


def test_the_outputs_of_retinanet_belong_to_detectron2s_anchors(detectors, tmp_path):
    model = detectors.build("retinanet").eval()
    sizes = [32 * 2 ** (i / 3) for i in range(3)]
    anchors = detectron2s_anchors(sizes)
    deltas = torch.stack([torch.tensor([i / 20, -i / 30, i / 40, -i / 50]) for i in range(9)])
    state = convert(model.state_dict(), "detectron2").state
    state["head.cls_score.weight"].zero_()
    # Nine anchors of four classes, the background not counted.
    state["head.cls_score.bias"] = torch.arange(36.0)
    constant(model, state, "head.bbox_pred.weight", "head.bbox_pred.bias", deltas, tmp_path)
    sides = anchors[:, 2:] - anchors[:, :2]
    centres, extents = deltas[:, :2] * sides, sides * deltas[:, 2:].exp()
    expected = torch.cat([centres - extents / 2, centres + extents / 2], dim=1)
    base = CONVENTIONS["detectron2"].cell(8, sizes, (0.5, 1.0, 2.0))
    bias = model.head.regression_head.bbox_reg.bias.detach().view(-1, 4)
    found = model.box_coder.decode_single(bias, base)
    order = assert_same_boxes(found, expected)
    scores = model.head.classification_head.cls_logits.bias.view(9, 4)
    assert torch.equal(scores[order], torch.arange(36.0).view(9, 4))


def assert_same_boxes(found, expected):
    """The same boxes in any order; gives the index in ``found`` of each expected one."""
    distance = torch.cdist(expected.double(), found.double())
    assert distance.min(dim=1).values.max() < 1e-3
    order = distance.argmin(dim=1)
    assert len(order.unique()) == len(expected)
    return order


def test_the_background_is_last_there_and_first_here(detectors, tmp_path):
    """Scores and box deltas of 80 classes as detectron2's box predictor and mask predictor give them."""
    model = detectors.build("mask_fpn").eval()
    state = convert(model.state_dict(), "detectron2").state
    score, box = "roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"
    mask = "roi_heads.mask_head.predictor"
    shapes = [state[f"{name}.weight"].shape[0] for name in (score, box, mask)]
    assert shapes == [81, 320, 80]
    generator = torch.Generator().manual_seed(3)
    file = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
    torch.save({"model": file, "iteration": 1}, tmp_path / "model.pth")
    load_weights(model, tmp_path / "model.pth")
    x = torch.randn(5, 32)
    with torch.no_grad():
        logits, deltas = model.roi_heads.box_predictor(x)
        maps = model.roi_heads.mask_predictor.mask_fcn_logits(torch.randn(2, 32, 3, 3))
    probabilities = F.linear(x, file[f"{score}.weight"], file[f"{score}.bias"]).softmax(dim=1)
    torch.testing.assert_close(logits.softmax(dim=1)[:, 1:], probabilities[:, :80])
    theirs = F.linear(x, file[f"{box}.weight"], file[f"{box}.bias"]).view(5, 80, 4)
    torch.testing.assert_close(deltas.view(5, 81, 4)[:, 1:], theirs)
    assert maps.shape[1] == 81
    assert torch.equal(model.roi_heads.mask_predictor.mask_fcn_logits.weight[1:], file[f"{mask}.weight"])


def test_what_is_no_weight_is_left_out(detectors, tmp_path):
    model = detectors.build("faster_fpn")
    extra = {
        "pixel_mean": torch.zeros(3),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
    }
    torch.save({**convert(model.state_dict(), "detectron2").state, **extra}, tmp_path / "model.pth")
    assert load_weights(model, tmp_path / "model.pth").unexpected == ()


def test_another_number_of_ratios_is_refused(detectors):
    state = dict(detectors.build("faster_c4").state_dict())
    state["rpn.head.cls_logits.bias"] = torch.zeros(4)
    with pytest.raises(ConvbodyError, match="an RPN with 4 anchors in a cell of its only feature map"):
        convert(state, "detectron2")
