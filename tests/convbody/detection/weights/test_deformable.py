"""Files with plain convolutions in detectors whose bodies are deformable."""

import pickle

import pytest
import torch

from backbones import build_backbone
from backbones.weights import load_weights, source
from backbones.weights.write import convert, write_tensors
from convbody.detection import build_detector
from convbody.detection.initial import build_initial_detector
from registry import load_cfg

V1 = ["MODEL.RESNETS.STAGE_WITH_DCN", (False, True, True, True)]
V2 = [*V1, "MODEL.RESNETS.WITH_MODULATED_DCN", True]
WHOLE = ["convbody", "maskrcnn-benchmark", "caffe2", "detectron2", "torchvision"]
BODIES = [*WHOLE, "timm"]
BOTH = pytest.mark.parametrize("opts", [pytest.param(V1, marks=pytest.mark.slow), V2], ids=["v1", "v2"])


@pytest.fixture(scope="module")
def plain(detectors):
    """A Faster R-CNN on an FPN without deformable convolutions."""
    return detectors.build("faster_fpn")


@pytest.fixture
def build(detectors):
    """``build(case, opts)``: a narrow detector with other weights than ``plain``, and a copy of them."""

    def make(case, opts):
        name, more = detectors.cases[case]
        model = build_detector(detectors.config(name, *detectors.narrow, *more, *opts))
        detectors.fill(model.state_dict(), seed=1)
        return model, {key: tensor.clone() for key, tensor in model.state_dict().items()}

    return make


def check_filled(target, before, plain):
    """All tensors of ``plain`` are in ``target``, the 3x3 filters inside, and the rest is as ``before``."""
    state = dict(target.state_dict())
    for name, tensor in plain.items():
        inner = ".conv.".join(name.rsplit(".", 1))
        assert torch.equal(state.pop(inner if inner in state else name), tensor), name
    assert state and all(torch.equal(tensor, before[name]) for name, tensor in state.items())
    return set(state)


@BOTH
@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_plain_detector(tmp_path, plain, build, name, opts):
    target, before = build("faster_fpn", opts)
    file = tmp_path / ("w.pkl" if name in ("caffe2", "detectron2") else "w.pth")
    write_tensors(convert(plain.state_dict(), name).state, file, name)
    report = load_weights(target, file)
    expected = {key: tensor.clone() for key, tensor in plain.state_dict().items()}
    if name == "detectron2":  # it has no box deltas of the background, which nothing reads: zeros
        for leaf in ("weight", "bias"):
            expected[f"roi_heads.box_predictor.bbox_pred.{leaf}"][:4] = 0
    left = check_filled(target, before, expected)
    assert set(report.initialised) == left and len(left) == 26
    assert report.lineage == name and report.missing == report.unexpected == ()


@BOTH
@pytest.mark.parametrize("name", BODIES)
def test_the_body_of_a_classifier(tmp_path, plain, build, name, opts):
    body = {
        key.removeprefix("backbone.body."): tensor
        for key, tensor in plain.state_dict().items()
        if key.startswith("backbone.body.")
    }
    target, before = build("faster_fpn", opts)
    torch.save(convert(body, name, "convbody").state, tmp_path / "w.pth")
    report = load_weights(target, tmp_path / "w.pth")
    left = check_filled(target, before, {f"backbone.body.{key}": tensor for key, tensor in body.items()})
    assert set(report.initialised) | set(report.missing) == left
    assert {key.split(".")[-2] for key in report.initialised} == {"offset"}


@BOTH
def test_a_c4_detector(tmp_path, build, detectors, opts):
    plain, _ = build("faster_c4", [])
    target, before = build("faster_c4", opts)
    torch.save(convert(plain.state_dict(), "caffe2").state, tmp_path / "w.pth")
    report = load_weights(target, tmp_path / "w.pth")
    left = check_filled(target, before, plain.state_dict())
    assert set(report.initialised) == left


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask_rcnn_R_50_FPN_1x_dcn_v1", "mask_rcnn_R_50_FPN_1x_dcn_v2"])
def test_the_shipped_configs_start_from_their_imagenet_file(tmp_path, monkeypatch, detectors, name):
    monkeypatch.setenv("CONVBODY_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(source, "_download", write_imagenet_file)
    cfg = detectors.config(name, "MODEL.WEIGHT", "catalog://ImageNetPretrained/MSRA/R-50")
    model = build_initial_detector(cfg)
    (file,) = tmp_path.glob("*R-50.pkl")
    blobs = pickle.loads(file.read_bytes())["blobs"]
    for stage, block in ((3, 0), (4, 5), (5, 2)):
        conv = getattr(model.backbone.body, f"layer{stage - 1}")[block].conv2.conv
        assert torch.equal(conv.weight, torch.from_numpy(blobs[f"res{stage}_{block}_branch2b_w"]))


def write_imagenet_file(url, file, checksum):
    """What the catalogue has at the address: a ResNet-50 in Caffe2's names, here of random weights."""
    assert url.endswith("/ImageNetPretrained/MSRA/R-50.pkl")
    body = build_backbone(load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "R-50"]))
    write_tensors(convert(body.state_dict(), "caffe2").state, file, "caffe2")
