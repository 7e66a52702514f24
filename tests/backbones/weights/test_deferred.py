"""Initialisation that waits: what a file fills is never drawn, and all else is as it would have been."""

import pytest
import torch
from torch import nn

from backbones import build_backbone
from backbones.weights import deferred_init, load_weights
from convbody.detection import build_detector
from registry import ConfigError, load_cfg

NARROW = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 32),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 32),
    *("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 64),
    *("INPUT.MIN_SIZE_TEST", 64, "MODEL.RPN.PRE_NMS_TOP_N_TEST", 50, "MODEL.RPN.POST_NMS_TOP_N_TEST", 20),
]
FPN = ["MODEL.BACKBONE.CONV_BODY", "R-50-FPN", "MODEL.RPN.USE_FPN", True, "MODEL.ROI_HEADS.USE_FPN", True]
BOX = [
    *("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FPN2MLPFeatureExtractor"),
    *("MODEL.ROI_BOX_HEAD.PREDICTOR", "FPNPredictor", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7),
    *("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 64),
]
MASK = [
    *("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR", "MaskRCNNFPNFeatureExtractor"),
    *("MODEL.ROI_MASK_HEAD.PREDICTOR", "MaskRCNNC4Predictor"),
    *("MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", False, "MODEL.ROI_MASK_HEAD.CONV_LAYERS", (64, 64)),
    *("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 14, "MODEL.ROI_MASK_HEAD.RESOLUTION", 28),
]
KEYPOINTS = [
    *("MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.FEATURE_EXTRACTOR", "KeypointRCNNFeatureExtractor"),
    *("MODEL.ROI_KEYPOINT_HEAD.PREDICTOR", "KeypointRCNNPredictor"),
    *("MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", False),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS", (64,), "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION", 14),
    *("MODEL.ROI_KEYPOINT_HEAD.RESOLUTION", 56),
]
GN = [
    *("MODEL.RESNETS.STEM_FUNC", "StemWithGN", "MODEL.RESNETS.TRANS_FUNC", "BottleneckWithGN"),
    *("MODEL.FPN.USE_GN", True, "MODEL.ROI_BOX_HEAD.USE_GN", True),
]
DEFORMABLE = ["MODEL.RESNETS.STAGE_WITH_DCN", (False, True, True, True)]
RETINA = ["MODEL.BACKBONE.CONV_BODY", "R-50-FPN-RETINANET", "MODEL.RETINANET.USE_C5", False]
DETECTORS = {
    "Faster R-CNN": [*FPN, *BOX, *DEFORMABLE],
    "Mask R-CNN": [*FPN, *BOX, *MASK],
    "Keypoint R-CNN": [*FPN, *BOX, *KEYPOINTS],
    "group norm": [*FPN, *BOX, *GN],
    "agnostic": [*FPN, *BOX, "MODEL.CLS_AGNOSTIC_BBOX_REG", True],
    "C4": ["MODEL.BACKBONE.CONV_BODY", "R-50-C4"],
    "RetinaNet": [*RETINA, "MODEL.RETINANET_ON", True],
    "FCOS": [*RETINA, "MODEL.META_ARCHITECTURE", "FCOS"],
    "timm": [*FPN, *BOX, "MODEL.BACKBONE.CONV_BODY", "timm/test_convnext-FPN"],
    "timm, norms swapped": [
        *[*FPN, *BOX, "MODEL.BACKBONE.CONV_BODY", "timm/test_resnet-FPN"],
        *("MODEL.TIMM.NORM", "FrozenBN"),
    ],
}


def config(*opts):
    return load_cfg(None, [*NARROW, *opts])


@pytest.fixture
def dirty_memory():
    """Memory that nothing has filled holds NaN, so that what is forgotten shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", DETECTORS)
def test_what_no_file_fills_is_as_it_would_have_been(name, dirty_memory):
    """Not the same numbers, but constants alike, and random tensors of the same spread."""
    cfg = config(*DETECTORS[name])
    usual = build_detector(cfg)
    with deferred_init():
        waited = build_detector(cfg)
    for (key, wanted), (other, found) in zip(
        usual.state_dict().items(), waited.state_dict().items(), strict=True
    ):
        assert key == other and wanted.shape == found.shape and wanted.dtype == found.dtype
        assert not found.float().isnan().any(), key
        if wanted.numel() < 2 or wanted.float().std() < 1e-12:
            assert torch.equal(found, wanted), key
        elif wanted.numel() >= 1000:
            assert not torch.equal(found, wanted), key
            assert found.std().item() == pytest.approx(wanted.std().item(), rel=0.15), key
            assert found.abs().max().item() == pytest.approx(wanted.abs().max().item(), rel=0.5), key
    flags = [[p.requires_grad for p in model.parameters()] for model in (usual, waited)]
    assert flags[0] == flags[1] and True in flags[0]


@pytest.mark.parametrize("name", ["Faster R-CNN", "C4", "timm"])
def test_a_loaded_detector_detects_as_the_one_that_was_saved(name, tmp_path, dirty_memory):
    cfg = config(*DETECTORS[name])
    original = build_detector(cfg).eval()
    torch.save(original.state_dict(), tmp_path / "detector.pth")
    with deferred_init():
        loaded = build_detector(cfg)
        before = torch.get_rng_state()
        load_weights(loaded, tmp_path / "detector.pth")
    assert torch.equal(before, torch.get_rng_state())  # nothing was drawn
    image = [torch.rand(3, 64, 64)]
    for wanted, found in zip(original(image), loaded.eval()(image), strict=True):
        assert {k: v.tolist() for k, v in wanted.items()} == {k: v.tolist() for k, v in found.items()}


def test_a_file_of_the_body_leaves_the_rest_random(tmp_path, dirty_memory):
    cfg = config(*DETECTORS["Faster R-CNN"])
    torch.save(build_backbone(cfg).body.state_dict(), tmp_path / "body.pth")
    with deferred_init():
        model = build_detector(cfg)
        report = load_weights(model, tmp_path / "body.pth")
    saved = torch.load(tmp_path / "body.pth")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.backbone.body.state_dict().items())
    assert report.missing
    assert model.roi_heads.box_predictor.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not any(
        tensor.isnan().any() for tensor in model.state_dict().values() if tensor.is_floating_point()
    )


def test_a_file_that_does_not_fit_leaves_a_usable_network(tmp_path, dirty_memory):
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    cfg = config(*FPN)
    with pytest.raises(ConfigError), deferred_init():
        model = build_backbone(cfg)
        load_weights(model, tmp_path / "other.pth")
    assert not any(
        tensor.isnan().any() for tensor in model.state_dict().values() if tensor.is_floating_point()
    )


class Reads(nn.Module):
    """Initialises itself in the ways that networks have."""

    def __init__(self):
        super().__init__()
        self.truncated = nn.Parameter(torch.empty(200, 50))
        nn.init.trunc_normal_(self.truncated, mean=1.0, std=0.5, a=0.0, b=2.0)
        self.twice = nn.Linear(50, 200)
        nn.init.normal_(self.twice.weight, std=3.0)
        self.rows = nn.Parameter(torch.empty(200, 50))
        nn.init.ones_(self.rows)
        with torch.no_grad():
            self.rows[0] = 7.0
            self.rows.mul_(self.rows)
        self.doubled = nn.Parameter(nn.init.ones_(nn.Parameter(torch.empty(9))) * 2)
        self.tied = nn.Parameter(nn.init.constant_(nn.Parameter(torch.empty(9)), 5.0))
        self.orthogonal = nn.Parameter(torch.empty(20, 20))
        nn.init.orthogonal_(self.orthogonal)
        self.through_data = nn.Linear(3, 3)
        self.through_data.weight.data.fill_(4.0)
        self.copied = nn.Parameter(torch.empty(9))
        with torch.no_grad():
            self.copied.copy_(self.tied)
        self.moved = nn.Linear(3, 3).double()
        self.kept = nn.init.ones_(nn.Parameter(torch.empty(9))).detach()


def test_ways_to_initialise(dirty_memory):
    with deferred_init():
        model = Reads()
    assert model.truncated.min() >= 0 and model.truncated.max() <= 2
    assert model.truncated.mean().item() == pytest.approx(1.0, abs=0.03)
    assert model.truncated.std().item() == pytest.approx(0.44, abs=0.03)
    assert model.twice.weight.std().item() == pytest.approx(3.0, rel=0.1)
    assert model.rows[0].eq(49).all() and model.rows[1:].eq(1).all()
    assert model.doubled.eq(2).all() and model.tied.eq(5).all() and model.copied.eq(5).all()
    assert torch.allclose(model.orthogonal @ model.orthogonal.T, torch.eye(20), atol=1e-5)
    assert model.through_data.weight.eq(4).all()
    assert model.moved.weight.abs().max() < 1
    assert model.kept.eq(1).all()


def test_reading_a_parameter_inside_gives_its_value(dirty_memory):
    with deferred_init():
        layer = nn.Linear(4, 4)
        nn.init.ones_(layer.weight)
        assert layer.weight.sum() == 16
        kept = layer.weight.detach()
        nn.init.zeros_(layer.weight)
        assert kept.sum() == 0
        with pytest.raises(RuntimeError, match="leaf"):
            layer.weight.fill_(1.0)
