"""torchvision's own detectors and ours, with the same weights: the same losses and the same detections."""

from pathlib import Path

import pytest
import torch
from torchvision.models import detection
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.retinanet import _default_anchorgen
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from backbones import build_backbone
from backbones.weights import load_weights
from backbones.weights.write import convert
from convbody.detection import build_detector
from registry import ConvbodyError, load_cfg

CONFIGS = Path(__file__).resolve().parents[4] / "configs" / "torchvision"
SHORT, LIMIT = 96, 12  # pixels of the short side; detections per image, so that masks and heat maps stay few
ARCHITECTURES = {
    "faster_rcnn": detection.FasterRCNN,
    "mask_rcnn": detection.MaskRCNN,
    "keypoint_rcnn": detection.KeypointRCNN,
    "retinanet": detection.RetinaNet,
    "fcos": detection.FCOS,
}
ONE_STAGE = ("retinanet", "fcos")
#: What these have in common with every detector's proof but take long on one core.
SLOW = ("faster_rcnn", "mask_rcnn", "keypoint_rcnn", "retinanet")
KINDS = [pytest.param(kind, marks=pytest.mark.slow if kind in SLOW else ()) for kind in ARCHITECTURES]


def torchvisions_backbone(kind):
    one_stage = kind in ONE_STAGE
    return resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        trainable_layers=3,
        returned_layers=[2, 3, 4] if one_stage else None,
        extra_blocks=LastLevelP6P7(256, 256) if one_stage else None,
    )


def torchvisions(kind):
    """torchvision's detector as its published weights are used, with frozen norms, and random weights."""
    options = {"num_classes": 2 if kind == "keypoint_rcnn" else 91, "min_size": SHORT, "max_size": 1000}
    options |= {"detections_per_img": 1000} if kind in ONE_STAGE else {"box_detections_per_img": LIMIT}
    if kind == "retinanet":
        options["anchor_generator"] = _default_anchorgen()
    model = ARCHITECTURES[kind](torchvisions_backbone(kind), **options)
    if kind != "fcos":
        overwrite_eps(model, 0.0)
    fill(model)
    if kind in ONE_STAGE:
        # As after training, which never shows these detectors an object of class 0.
        logits = model.head.classification_head.cls_logits
        for tensor, value in ((logits.weight.data, 0.0), (logits.bias.data, -20.0)):
            tensor.unflatten(0, (-1, 91))[:, 0] = value
    return model


def fill(model):
    """Random weights under which features keep their size, boxes move little and scores differ."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(noise.abs() + 0.5)
        elif name.endswith("weight") and tensor.dim() == 1:
            tensor.copy_(0.5 + 0.1 * noise)
        elif tensor.dim() > 1:
            box = "bbox_reg" in name or "bbox_pred" in name
            gain = 0.05 if box else 4.0 if "cls_logits" in name else 1.2
            tensor.copy_(noise * gain / tensor[0].numel() ** 0.5)
        else:
            tensor.copy_(0.1 * noise)


def ours(kind):
    options = ["MODEL.WEIGHT", "", "INPUT.MIN_SIZE_TEST", SHORT, "INPUT.MAX_SIZE_TEST", 1000]
    options += ["MODEL.ROI_HEADS.DETECTIONS_PER_IMG", LIMIT, "TEST.DETECTIONS_PER_IMG", LIMIT]
    return build_detector(load_cfg(CONFIGS / f"{kind}_R_50_FPN.yaml", options))


def loaded(kind, folder):
    """(torchvision's detector, ours with its weights)."""
    theirs, model = torchvisions(kind), ours(kind)
    torch.save(theirs.state_dict(), folder / "model.pth")
    report = load_weights(model, folder / "model.pth")
    assert (report.lineage, report.missing, report.unexpected, report.wrong_shape) == (
        "torchvision",
        (),
        (),
        (),
    )
    return theirs, model


def a_batch(count):
    """Images of several sizes that need no resizing, with two objects each."""
    generator = torch.Generator().manual_seed(1)
    images, targets = [], []
    for height, width in [(96, 128), (150, 96), (96, 97)][:count]:
        boxes = torch.tensor([[5.0, 8, 50, 60], [30, 20, width - 4, height - 10]])
        masks = torch.zeros(2, height, width, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        keypoints = torch.rand(2, 17, 3, generator=generator) * 30 + 30
        keypoints[..., 2] = 2
        images.append(torch.rand(3, height, width, generator=generator))
        labels = torch.tensor([1, 1])
        targets.append({"boxes": boxes, "labels": labels, "masks": masks, "keypoints": keypoints})
    return images, targets


def seen(found):
    """The best detections: one-stage detectors here leave out boxes that the border cuts to nothing."""
    boxes = found["boxes"]
    keep = torch.where((boxes[:, 2:] > boxes[:, :2]).all(dim=1))[0][:LIMIT]
    return {key: value[keep] for key, value in found.items()}


@pytest.fixture
def sampled_alike(monkeypatch):
    """Both code bases draw the same sample of boxes for the loss, although in another order."""
    draw = torch.randperm

    def same(n, **options):
        return draw(n, generator=torch.Generator().manual_seed(n))

    monkeypatch.setattr(torch, "randperm", same)


@pytest.mark.parametrize("kind", KINDS)
def test_detections_and_losses_are_torchvisions(kind, tmp_path, sampled_alike):
    """In float64: which boxes are sampled and suppressed must not hang on rounding."""
    theirs, model = (detector.double() for detector in loaded(kind, tmp_path))
    images, targets = a_batch(2)
    images = [image.double() for image in images]
    for target in targets:
        target["boxes"] = target["boxes"].double()
    with torch.no_grad():
        for expected, found in zip(theirs.eval()(images), model.eval()(images), strict=True):
            expected = seen(expected)
            assert len(expected["boxes"]) == LIMIT and expected.keys() == found.keys()
            assert torch.equal(found["labels"], expected["labels"])
            for key in expected.keys() - {"labels"}:
                wanted = expected[key].to(found[key])  # torchvision's keypoints are float32 of every type
                torch.testing.assert_close(found[key], wanted, rtol=0, atol=1e-6)
        expected, found = theirs.train()(images, targets), model.train()(images, targets)
    if kind == "retinanet":  # whose published loss is another
        assert found.keys() == {"loss_retina_cls", "loss_retina_reg"}
        return
    names = {
        "classification": "loss_cls",
        "bbox_regression": "loss_box_reg",
        "bbox_ctrness": "loss_centerness",
    }
    expected = {names.get(name, name): loss for name, loss in expected.items()}
    assert expected.keys() == found.keys()
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, rtol=1e-6, atol=0, check_dtype=False)


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k == "fcos" else pytest.mark.slow) for k in ARCHITECTURES]
)
def test_weights_go_back_into_torchvisions_detector(kind, tmp_path):
    theirs, model = loaded(kind, tmp_path)
    written = convert(model.state_dict(), "torchvision").state
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    with torch.no_grad():
        for tensor in theirs.state_dict().values():
            tensor.zero_()
    theirs.load_state_dict(written, strict=True)
    for name, tensor in theirs.state_dict().items():
        if "regression_head.bbox_reg" in name:  # scaled by 10 and 5, and back
            torch.testing.assert_close(tensor, before[name], rtol=2e-7, atol=0)
        else:
            assert torch.equal(tensor, before[name]), name


def older(name, kind):
    """A layer's name before torchvision 0.13, as in its published files of detectors."""
    for blocks in ("inner_blocks", "layer_blocks"):
        parts = name.split(".")
        if blocks in parts:
            return ".".join(parts[: parts.index(blocks) + 2] + parts[-1:])
    if kind == "retinanet" and ".conv." in name:
        tower, index, _, leaf = name.rsplit(".", 3)
        return f"{tower}.{2 * int(index)}.{leaf}"
    if name.startswith("roi_heads.mask_head."):
        return f"roi_heads.mask_head.mask_fcn{int(name.split('.')[2]) + 1}.{name.split('.')[-1]}"
    return name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")


@pytest.mark.parametrize("kind", [pytest.param("mask_rcnn", marks=pytest.mark.slow), "retinanet"])
def test_the_published_files_have_older_names(kind, tmp_path):
    theirs = torchvisions(kind)
    state = {older(name, kind): tensor for name, tensor in theirs.state_dict().items()}
    assert len(state.keys() - theirs.state_dict().keys()) > 10
    torch.save(state, tmp_path / "older.pth")
    torch.save(theirs.state_dict(), tmp_path / "newer.pth")
    old, new = ours(kind), ours(kind)
    report = load_weights(old, tmp_path / "older.pth")
    load_weights(new, tmp_path / "newer.pth")
    assert (report.lineage, report.missing, report.unexpected, report.wrong_shape) == (
        "torchvision",
        (),
        (),
        (),
    )
    for name, tensor in new.state_dict().items():
        assert torch.equal(old.state_dict()[name], tensor), name


@pytest.mark.parametrize("kind", [pytest.param("mask_rcnn", marks=pytest.mark.slow), "retinanet"])
def test_a_backbone_with_an_fpn_gives_torchvisions_features(kind, tmp_path):
    theirs = torchvisions_backbone(kind).eval()
    fill(theirs)
    overwrite_eps(theirs, 1e-5)
    torch.save(theirs.state_dict(), tmp_path / "backbone.pth")
    options = ["MODEL.WEIGHT", "", "MODEL.FROZEN_BN.EPSILON", 1e-5]
    backbone = build_backbone(load_cfg(CONFIGS / f"{kind}_R_50_FPN.yaml", options)).eval()
    report = load_weights(backbone, tmp_path / "backbone.pth")
    assert (report.lineage, report.missing, report.unexpected) == ("torchvision", (), ())
    image = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        expected, found = list(theirs(image).values()), backbone(image)
        exact = list(theirs.double()(image.double()).values())
    assert len(expected) == len(found)
    for their_map, our_map, true_map in zip(expected, found, exact, strict=True):
        rounding = (their_map - true_map).abs().max()
        assert (our_map - true_map).abs().max() <= 4 * rounding + 1e-6


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("faster_rcnn", "fasterrcnn_resnet50_fpn_v2"),
        pytest.param("retinanet", "retinanet_resnet50_fpn_v2", marks=pytest.mark.slow),
    ],
)
def test_the_second_versions_are_refused_in_one_sentence(kind, name, tmp_path):
    theirs = detection.__dict__[name](weights=None, weights_backbone=None)
    torch.save(theirs.state_dict(), tmp_path / "v2.pth")
    with pytest.raises(ConvbodyError, match=r"torchvision's .*resnet50_fpn_v2") as caught:
        load_weights(ours(kind), tmp_path / "v2.pth")
    assert "\n" not in str(caught.value)
