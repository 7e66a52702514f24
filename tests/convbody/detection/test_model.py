import json
import subprocess
import sys

import pytest
import torch
import torchvision.models.detection as tv
from torchvision.ops import box_iou

from convbody.detection import build_detector
from convbody.detection.inputs import InputError
from registry import ConfigError, UnknownNameError, load_cfg


def test_a_few_steps_on_one_batch_reduce_the_loss(kind, small_detector, batch):
    images, targets = batch
    model = small_detector(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(12):
        torch.manual_seed(0)
        losses = model(images, targets)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert sum(totals[-2:]) / 2 < 0.85 * totals[0]


def test_detections_follow_the_convention(kind, small_detector, batch):
    images, _ = batch
    model = small_detector(kind, {"MODEL.ROI_HEADS.SCORE_THRESH": 0.0, "MODEL.FCOS.INFERENCE_TH": 0.0}).eval()
    with torch.no_grad():
        outputs = model(images)
    assert len(outputs) == len(images)
    for image, output in zip(images, outputs, strict=True):
        height, width = image.shape[1:]
        boxes, labels, scores = output["boxes"], output["labels"], output["scores"]
        count = len(boxes)
        assert boxes.shape == (count, 4) and labels.shape == scores.shape == (count,)
        assert labels.dtype == torch.int64
        assert kind == "retinanet" or count > 0  # RetinaNet starts below every threshold
        assert ((labels >= 1) & (labels <= (1 if "rpn" in kind else 3))).all()
        assert ((scores >= 0) & (scores <= 1)).all() and (scores.diff() <= 0).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
        assert (boxes[:, 0::2] <= width + 1e-3).all() and (boxes[:, 1::2] <= height + 1e-3).all()
        if kind.startswith(("mask", "everything")):
            assert output["masks"].shape == (count, 1, height, width)
            assert ((output["masks"] >= 0) & (output["masks"] <= 1)).all()
        if kind.startswith(("keypoint", "everything")):
            assert output["keypoints"].shape == (count, 3, 3)
            assert output["keypoints_scores"].shape == (count, 3)


def test_detections_are_what_a_call_gives_with_masks_left_in_their_boxes(kind, small_detector, batch):
    images, _ = batch
    model = small_detector(kind).eval()
    with torch.no_grad():
        for compact, output in zip(model.detections(images), model(images), strict=True):
            assert compact.keys() == output.keys()
            for name, value in output.items():
                compared = compact[name].pasted() if name == "masks" else compact[name]
                assert torch.equal(compared, value)


def test_a_batch_without_objects_gives_every_parameter_a_finite_gradient(kind, small_detector, batch):
    images, targets = batch
    model = small_detector(kind)
    losses = model(images[1:], targets[1:])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    bad = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.isfinite().all())
    ]
    assert not bad


def test_detectors_are_torchvisions_with_the_published_backbone_names(small_detector):
    classes = {"mask-fpn": tv.generalized_rcnn.GeneralizedRCNN, "retinanet": tv.RetinaNet, "fcos": tv.FCOS}
    for kind, cls in classes.items():
        model = small_detector(kind)
        assert isinstance(model, cls)
        names = model.state_dict().keys()
        assert {"backbone.body.stem.conv1.weight", "backbone.body.layer2.0.conv1.weight"} <= names
        assert "backbone.fpn.fpn_inner4.weight" in names
    names = small_detector("mask-c4").state_dict().keys()
    assert "roi_heads.box_head.head.layer4.0.conv1.weight" in names
    assert "roi_heads.mask_predictor.conv5_mask.weight" in names
    assert not any("mask_head" in name for name in names)  # shared with the box head, and stored once


FPN_R50 = {
    "MODEL.BACKBONE.CONV_BODY": "R-50-FPN",
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 256,
    "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "FPN2MLPFeatureExtractor",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
}
MASK_R50 = {
    **FPN_R50,
    "MODEL.MASK_ON": True,
    "MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR": "MaskRCNNFPNFeatureExtractor",
    "MODEL.ROI_MASK_HEAD.RESOLUTION": 28,
    "MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR": False,
}
GN_R50 = {
    **MASK_R50,
    "MODEL.RESNETS.STEM_FUNC": "StemWithGN",
    "MODEL.RESNETS.TRANS_FUNC": "BottleneckWithGN",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.FPN.USE_GN": True,
    "MODEL.ROI_BOX_HEAD.USE_GN": True,
    "MODEL.ROI_MASK_HEAD.USE_GN": True,
}
DCN_R50 = {
    **MASK_R50,
    "MODEL.RESNETS.STAGE_WITH_DCN": (False, True, True, True),
    "MODEL.RESNETS.WITH_MODULATED_DCN": True,
}
RETINANET_R50 = {
    "MODEL.BACKBONE.CONV_BODY": "R-50-FPN-RETINANET",
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 256,
    "MODEL.RETINANET_ON": True,
}


@pytest.mark.parametrize(
    ("options", "parameters", "trainable"),
    [
        ({}, 33799840, 33577440),
        (MASK_R50, 44347573, 44125173),
        (GN_R50, 44405813, 44180469),
        (DCN_R50, 45218836, 44996436),
        (RETINANET_R50, 37915572, 37693172),
    ],
    ids=["faster-c4", "mask-fpn", "mask-fpn-gn", "mask-fpn-dcn", "retinanet"],
)
def test_published_detectors_have_the_published_number_of_parameters(options, parameters, trainable):
    with torch.device("meta"):
        model = build_detector(load_cfg(None, [part for pair in options.items() for part in pair]))
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    assert sum(size for size, _ in sizes) == parameters
    assert sum(size for size, trains in sizes if trains) == trainable


def test_retinanet_is_asked_for_by_either_key(small_detector):
    by_name = small_detector(
        "retinanet",
        {"MODEL.RETINANET_ON": False, "MODEL.RPN_ONLY": False, "MODEL.META_ARCHITECTURE": "RetinaNet"},
    )
    by_switch = small_detector("retinanet")
    assert type(by_name) is type(by_switch)
    assert all(
        torch.equal(a, b)
        for a, b in zip(by_name.state_dict().values(), by_switch.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            "faster-fpn",
            {"MODEL.META_ARCHITECTURE": "FasterRCNN"},
            "no meta architecture is called 'FasterRCNN'",
        ),
        (
            "faster-fpn",
            {"MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "FPN2MLPExtractor"},
            "nearest: FPN2MLPFeatureExtractor",
        ),
        ("faster-fpn", {"MODEL.RPN.ANCHOR_SIZES": (32, 64)}, "2 anchor sizes for the 5 feature maps"),
        ("faster-fpn", {"MODEL.RPN.ANCHOR_STRIDE": (4, 8, 16, 32, 32)}, r"strides \(4, 8, 16, 32, 64\)"),
        ("faster-fpn", {"MODEL.RPN.BG_IOU_THRESHOLD": 0.8}, "MODEL.RPN.BG_IOU_THRESHOLD = 0.8"),
        ("faster-fpn", {"MODEL.ROI_BOX_HEAD.NUM_CLASSES": 1}, "two or more"),
        ("faster-fpn", {"MODEL.ROI_BOX_HEAD.POOLER_SCALES": (0.3,)}, "no feature map of scale 0.3"),
        ("mask-fpn", {"MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 257}, "at most 256 samples"),
        (
            "faster-fpn",
            {"MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "ResNet50Conv5ROIFeatureExtractor"},
            "stops at stage 3",
        ),
        ("mask-fpn", {"MODEL.ROI_MASK_HEAD.RESOLUTION": 14}, "gives 28 x 28; set 28"),
        ("mask-fpn", {"MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR": True}, "vectors"),
        ("mask-fpn", {"MODEL.ROI_MASK_HEAD.CONV_LAYERS": ()}, "CONV_LAYERS"),
        ("mask-fpn", {"MODEL.RPN_ONLY": True}, "MODEL.MASK_ON"),
        ("retinanet", {"MODEL.KEYPOINT_ON": True}, "MODEL.KEYPOINT_ON"),
        ("retinanet", {"TEST.BBOX_AUG.ENABLED": True}, "two-stage"),
        ("fcos", {"TEST.BBOX_AUG.ENABLED": True}, "two-stage"),
        ("rpn-fpn", {"TEST.BBOX_AUG.ENABLED": True}, "two-stage"),
        ("faster-fpn", {"TEST.BBOX_AUG.ENABLED": True, "TEST.BBOX_AUG.SCALES": (0.5,)}, "whole pixels"),
        ("retinanet", {"MODEL.RETINANET.ANCHOR_SIZES": (32,)}, "1 anchor sizes for the 5"),
        ("fcos", {"MODEL.RETINANET_ON": True}, "not both"),
        ("fcos", {"MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 16}, "32 norm groups"),
        ("rpn-fpn", {"MODEL.BACKBONE.CONV_BODY": "R-18"}, "equal width"),
    ],
)
def test_configs_that_cannot_work_are_refused_in_one_line(kind, changes, message, small_detector):
    with pytest.raises((ConfigError, UnknownNameError), match=message) as caught:
        small_detector(kind, changes)
    text = str(caught.value)
    assert "\n" not in text
    assert any(key in text for key in changes)


@pytest.mark.parametrize("kind", ["everything-fpn", "keypoint-c4", "retinanet"])
def test_a_saved_config_gives_the_same_detector(kind, small_cfg, tmp_path, batch):
    cfg = small_cfg(kind)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    saved, first = build_detector(load_cfg(tmp_path / "config.yaml")).eval(), build_detector(cfg).eval()
    saved.load_state_dict(first.state_dict())
    with torch.no_grad():
        for output, wanted in zip(saved(batch[0]), first(batch[0]), strict=True):
            assert output.keys() == wanted.keys()
            assert all(torch.equal(output[key], wanted[key]) for key in wanted)


def test_a_scale_assigned_in_code_counts(small_cfg):
    cfg = small_cfg("faster-fpn")
    cfg.MODEL.ROI_BOX_HEAD.POOLER_SCALES = (0.125, 0.0625)
    assert build_detector(cfg).roi_heads.box_roi_pool.scales == [0.125, 0.0625]


def test_a_stride_left_at_its_default_is_the_backbones(small_detector):
    assert small_detector("rpn-fpn").rpn.anchor_generator.strides == (4, 8, 16, 32, 64)
    assert small_detector("rpn-c4").rpn.anchor_generator.strides == (16,)


def test_keys_without_effect_are_reported(small_detector, caplog):
    small_detector("faster-fpn")
    assert caplog.text == ""
    small_detector(
        "faster-fpn", {"MODEL.RETINANET.STRADDLE_THRESH": 7, "MODEL.ROI_MASK_HEAD.MLP_HEAD_DIM": 7}
    )
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert any(line.startswith("MODEL.RETINANET.STRADDLE_THRESH = 7, set on the command") for line in lines)


def test_mistakes_in_a_batch_name_the_image(small_detector, batch):
    images, targets = batch
    model = small_detector("mask-fpn")
    with pytest.raises(InputError, match="image 1 is int32"):
        model([images[0], (images[1] * 255).to(torch.int32)], targets)
    with pytest.raises(InputError, match="target 0, object 1: label 4 is outside 1..3"):
        model(images, [{**targets[0], "labels": torch.tensor([1, 4])}, targets[1]])
    with pytest.raises(InputError, match="target 1 has no tensor 'masks'"):
        model(images, [targets[0], {k: v for k, v in targets[1].items() if k != "masks"}])


def test_importing_the_package_loads_no_torch():
    code = "import sys, convbody.detection, json; print(json.dumps('torch' in sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) is False


@pytest.mark.parametrize("kind", ["mask-fpn", "mask-c4"])
def test_bottleneck_bodies_train_too(kind, small_detector, batch):
    model = small_detector(kind, {"MODEL.BACKBONE.CONV_BODY": "R-50-FPN" if "fpn" in kind else "R-50-C4"})
    sum(model(*batch).values()).backward()
    assert model.backbone.body.stem.conv1.weight.grad.any()


def test_a_dilated_last_stage_keeps_the_resolution(small_detector, batch):
    changes = {"MODEL.RESNETS.RES5_DILATION": 2, "MODEL.ROI_MASK_HEAD.RESOLUTION": 12}
    model = small_detector("mask-c4", changes)
    assert model(*batch)["loss_mask"] > 0


@pytest.mark.parametrize("kind", ["everything-fpn", "retinanet", "fcos"])
def test_detectors_run_in_double_precision(kind, small_detector, batch):
    images = [image.double() for image in batch[0]]
    targets = [
        {k: v.double() if v.is_floating_point() else v for k, v in target.items()} for target in batch[1]
    ]
    model = small_detector(kind).double()
    losses = model(images, targets)
    assert {loss.dtype for loss in losses.values()} == {torch.float64}
    with torch.no_grad():
        outputs = model.eval()(images)
    floats = [value for output in outputs for value in output.values() if value.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float64}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["mask-fpn", "mask-c4", "keypoint-fpn", "keypoint-c4", "retinanet", "fcos", "rpn-fpn"]
)
def test_objects_of_one_image_are_learnt_by_heart(kind, small_detector, batch):
    images, (target, _) = batch
    model = small_detector(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    # At a constant rate, where it ends is chance.
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 250)
    for _ in range(250):
        losses = model(images[:1], [target])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        rate.step()
    with torch.no_grad():
        (output,) = model.eval()(images[:1])
    overlap, best = box_iou(target["boxes"], output["boxes"][:10]).max(dim=1)
    assert overlap.min() > 0.7
    if "rpn" in kind:
        return
    assert output["labels"][best].tolist() == target["labels"].tolist()
    assert output["scores"][best].min() > 0.5
    if "mask" in kind:
        drawn = output["masks"][best, 0] > 0.5
        wanted = target["masks"].bool()
        assert ((drawn & wanted).sum((1, 2)) / (drawn | wanted).sum((1, 2))).min() > 0.7
    if "keypoint" in kind:
        assert (output["keypoints"][best, :, :2] - target["keypoints"][:, :, :2]).abs().max() < 6
