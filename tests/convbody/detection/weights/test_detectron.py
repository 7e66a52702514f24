"""Whole detectors under the blob names of Detectron: the lists are its networks', written by hand."""

import pytest
import torch

from backbones.weights import load_weights
from backbones.weights.write import convert, write_tensors
from convbody.detection.heads.anchors import cell_anchors

RPN_FPN = {
    "conv_rpn_fpn2_w": "rpn.head.conv.0.0.weight",
    "conv_rpn_fpn2_b": "rpn.head.conv.0.0.bias",
    "rpn_cls_logits_fpn2_w": "rpn.head.cls_logits.weight",
    "rpn_cls_logits_fpn2_b": "rpn.head.cls_logits.bias",
    "rpn_bbox_pred_fpn2_w": "rpn.head.bbox_pred.weight",
    "rpn_bbox_pred_fpn2_b": "rpn.head.bbox_pred.bias",
}
RPN_C4 = {blob.replace("_fpn2", ""): name for blob, name in RPN_FPN.items()}
BOX_OUTPUTS = {
    "cls_score_w": "roi_heads.box_predictor.cls_score.weight",
    "cls_score_b": "roi_heads.box_predictor.cls_score.bias",
    "bbox_pred_w": "roi_heads.box_predictor.bbox_pred.weight",
    "bbox_pred_b": "roi_heads.box_predictor.bbox_pred.bias",
}
BOX = {
    "fc6_w": "roi_heads.box_head.fc6.weight",
    "fc6_b": "roi_heads.box_head.fc6.bias",
    "fc7_w": "roi_heads.box_head.fc7.weight",
    "fc7_b": "roi_heads.box_head.fc7.bias",
    **BOX_OUTPUTS,
}
MASK_OUTPUTS = {
    "conv5_mask_w": "roi_heads.mask_predictor.conv5_mask.weight",
    "conv5_mask_b": "roi_heads.mask_predictor.conv5_mask.bias",
    "mask_fcn_logits_w": "roi_heads.mask_predictor.mask_fcn_logits.weight",
    "mask_fcn_logits_b": "roi_heads.mask_predictor.mask_fcn_logits.bias",
}
LISTS = {
    "mask_fpn": {
        **RPN_FPN,
        **BOX,
        "_[mask]_fcn1_w": "roi_heads.mask_head.0.0.weight",
        "_[mask]_fcn1_b": "roi_heads.mask_head.0.0.bias",
        "_[mask]_fcn2_w": "roi_heads.mask_head.1.0.weight",
        "_[mask]_fcn2_b": "roi_heads.mask_head.1.0.bias",
        "_[mask]_fcn3_w": "roi_heads.mask_head.2.0.weight",
        "_[mask]_fcn3_b": "roi_heads.mask_head.2.0.bias",
        **MASK_OUTPUTS,
    },
    "mask_gn": {
        **RPN_FPN,
        "head_conv1_w": "roi_heads.box_head.xconvs.0.weight",
        "head_conv1_gn_s": "roi_heads.box_head.xconvs.1.weight",
        "head_conv1_gn_b": "roi_heads.box_head.xconvs.1.bias",
        "head_conv2_w": "roi_heads.box_head.xconvs.3.weight",
        "head_conv2_gn_s": "roi_heads.box_head.xconvs.4.weight",
        "head_conv2_gn_b": "roi_heads.box_head.xconvs.4.bias",
        "head_conv3_w": "roi_heads.box_head.xconvs.6.weight",
        "head_conv3_gn_s": "roi_heads.box_head.xconvs.7.weight",
        "head_conv3_gn_b": "roi_heads.box_head.xconvs.7.bias",
        "head_conv4_w": "roi_heads.box_head.xconvs.9.weight",
        "head_conv4_gn_s": "roi_heads.box_head.xconvs.10.weight",
        "head_conv4_gn_b": "roi_heads.box_head.xconvs.10.bias",
        "fc6_w": "roi_heads.box_head.fc6.weight",
        "fc6_b": "roi_heads.box_head.fc6.bias",
        **BOX_OUTPUTS,
        "_mask_fcn1_w": "roi_heads.mask_head.0.0.weight",
        "_mask_fcn1_gn_s": "roi_heads.mask_head.0.1.weight",
        "_mask_fcn1_gn_b": "roi_heads.mask_head.0.1.bias",
        "_mask_fcn2_w": "roi_heads.mask_head.1.0.weight",
        "_mask_fcn2_gn_s": "roi_heads.mask_head.1.1.weight",
        "_mask_fcn2_gn_b": "roi_heads.mask_head.1.1.bias",
        "_mask_fcn3_w": "roi_heads.mask_head.2.0.weight",
        "_mask_fcn3_gn_s": "roi_heads.mask_head.2.1.weight",
        "_mask_fcn3_gn_b": "roi_heads.mask_head.2.1.bias",
        **MASK_OUTPUTS,
    },
    "mask_c4": {**RPN_C4, **BOX_OUTPUTS, **MASK_OUTPUTS},
    "keypoint": {
        **RPN_FPN,
        **BOX,
        "conv_fcn1_w": "roi_heads.keypoint_head.0.weight",
        "conv_fcn1_b": "roi_heads.keypoint_head.0.bias",
        "conv_fcn2_w": "roi_heads.keypoint_head.2.weight",
        "conv_fcn2_b": "roi_heads.keypoint_head.2.bias",
        "conv_fcn3_w": "roi_heads.keypoint_head.4.weight",
        "conv_fcn3_b": "roi_heads.keypoint_head.4.bias",
        "kps_score_lowres_w": "roi_heads.keypoint_predictor.kps_score_lowres.weight",
        "kps_score_lowres_b": "roi_heads.keypoint_predictor.kps_score_lowres.bias",
    },
}
OF_BACKBONE = ("conv1_", "res", "fpn_")


@pytest.mark.parametrize("case", LISTS)
def test_the_heads_have_detectrons_names(detectors, case):
    state = detectors.build(case).state_dict()
    blobs = convert(state, "caffe2").state
    assert {blob for blob in blobs if not blob.startswith(OF_BACKBONE)} == LISTS[case].keys()
    for blob, name in LISTS[case].items():
        assert torch.equal(blobs[blob], state[name]), blob


def test_the_head_of_a_c4_detector_is_stage_5(detectors, tmp_path):
    model = detectors.build("mask_c4")
    state = model.state_dict()
    blobs = convert(state, "caffe2").state
    for blob, name in {
        "res4_5_branch2c_w": "backbone.body.layer3.5.conv3.weight",
        "res5_0_branch1_w": "roi_heads.box_head.head.layer4.0.downsample.0.weight",
        "res5_2_branch2b_bn_s": "roi_heads.box_head.head.layer4.2.bn2.weight",
    }.items():
        assert torch.equal(blobs[blob], state[name]), blob
    assert not any(blob.endswith(("_rm", "_riv")) for blob in blobs)


def test_a_mask_head_with_a_stage_of_its_own(detectors):
    state = detectors.build("mask_c4").state_dict()
    own = {
        name.replace("box_head.head", "mask_head.head"): tensor + 1
        for name, tensor in state.items()
        if name.startswith("roi_heads.box_head.head.") and "running" not in name
    }
    statistics = {
        name.replace("box_head.head", "mask_head.head"): tensor
        for name, tensor in state.items()
        if name.startswith("roi_heads.box_head.head.") and "running" in name
    }
    whole = {**state, **own, **statistics}
    blobs = convert(whole, "caffe2").state
    for blob, name in {
        "_[mask]_res5_0_branch2a_w": "roi_heads.mask_head.head.layer4.0.conv1.weight",
        "_[mask]_res5_2_branch2c_bn_b": "roi_heads.mask_head.head.layer4.2.bn3.bias",
    }.items():
        assert torch.equal(blobs[blob], whole[name]), blob
    back = convert(blobs, "convbody").state
    assert back.keys() == whole.keys() and all(torch.equal(back[name], whole[name]) for name in whole)


RETNET = {
    "retnet_cls_conv_n0_fpn3_w": "head.classification_head.conv.0.0.weight",
    "retnet_cls_conv_n3_fpn3_b": "head.classification_head.conv.3.0.bias",
    "retnet_bbox_conv_n0_fpn3_w": "head.regression_head.conv.0.0.weight",
    "retnet_bbox_conv_n2_fpn3_b": "head.regression_head.conv.2.0.bias",
    "fpn_6_w": "backbone.fpn.top_blocks.p6.weight",
    "fpn_7_b": "backbone.fpn.top_blocks.p7.bias",
    "fpn_inner_res5_2_sum_w": "backbone.fpn.fpn_inner4.weight",
    "fpn_inner_res3_3_sum_lateral_b": "backbone.fpn.fpn_inner2.bias",
}


def test_the_towers_of_retinanet(detectors):
    state = detectors.build("retinanet").state_dict()
    blobs = convert(state, "caffe2").state
    assert len([blob for blob in blobs if blob.startswith("retnet_")]) == 20
    for blob, name in RETNET.items():
        assert torch.equal(blobs[blob], state[name]), blob


def test_the_anchors_of_retinanet(detectors, tmp_path):
    """Every output of a Detectron file says for which anchor, class and coordinate it is."""
    octaves, ratios, classes = [1, 2 ** (1 / 3), 2 ** (2 / 3)], [0.5, 1, 2], 4
    # Detectron's loops: octaves outside, ratios inside; then classes, or coordinates.
    anchors = [cell_anchors(8, [32 * octave], [ratio])[0] for octave in octaves for ratio in ratios]
    model = detectors.build("retinanet")
    blobs = dict(convert(model.state_dict(), "caffe2").state)
    area = torch.stack([(box[2] - box[0]) * (box[3] - box[1]) for box in anchors])
    height = torch.stack([box[3] - box[1] for box in anchors])
    blobs["retnet_cls_pred_fpn3_b"] = (area[:, None] + torch.arange(classes)).flatten()
    blobs["retnet_bbox_pred_fpn3_b"] = (height[:, None] + torch.arange(4)).flatten()
    write_tensors(blobs, tmp_path / "model_final.pkl", "caffe2")
    report = load_weights(model, tmp_path / "model_final.pkl")
    assert (report.missing, report.unexpected) == ((), ())
    ours = cell_anchors(8, [32 * octave for octave in octaves], ratios)
    area, height = (ours[:, 2] - ours[:, 0]) * (ours[:, 3] - ours[:, 1]), ours[:, 3] - ours[:, 1]
    assert torch.equal(
        model.head.classification_head.cls_logits.bias, (area[:, None] + torch.arange(classes)).flatten()
    )
    # Our deltas are divided by the box coder's weights, Detectron's are not.
    given = model.head.regression_head.bbox_reg.bias.reshape(9, 4) / torch.tensor(model.box_coder.weights)
    torch.testing.assert_close(given, height[:, None] + torch.arange(4))
    assert model.anchor_generator.cell_anchors[0].shape == ours.shape


def test_solver_state_of_a_training_file_is_no_weight(detectors, tmp_path):
    model = detectors.build("rpn")
    blobs = dict(convert(model.state_dict(), "caffe2").state)
    blobs |= {f"{name}_momentum": value for name, value in list(blobs.items())} | {"lr": torch.zeros(1)}
    write_tensors(blobs, tmp_path / "model_iter9.pkl", "caffe2")
    assert load_weights(model, tmp_path / "model_iter9.pkl").unexpected == ()
