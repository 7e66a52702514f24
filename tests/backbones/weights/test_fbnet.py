"""torchvision's MobileNetV2 and timm's FBNet-C: the same features from the same tensors."""

import copy

import pytest
import torch
import torchvision

from backbones import build_backbone
from backbones.weights import load_weights
from backbones.weights.contract import contradictions
from backbones.weights.fbnet import FBNET_C, MOBILENET_V2
from backbones.weights.known import known_contract
from registry import ConvbodyError, load_cfg


def cfg_of(name, *opts):
    return load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", name, *opts])


def scramble(model):
    """Weights and statistics as after training."""
    torch.manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("running_var") or (value.dim() == 1 and name.endswith("weight")):
            value.uniform_(0.5, 1.5)
        elif value.dim() == 1:
            value.normal_(0, 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def mobilenet():
    return scramble(torchvision.models.mobilenet_v2())


@pytest.fixture(scope="module")
def fbnet_c():
    return scramble(pytest.importorskip("timm").create_model("fbnetc_100"))


def features_of(layers, x, wanted):
    found = []
    for number, layer in enumerate(layers):
        x = layer(x)
        if number in wanted:
            found.append(x)
    return found


@pytest.mark.parametrize("norm", ["bn", "af"])
def test_mobilenet_v2_gives_torchvisions_features(mobilenet, tmp_path, norm):
    torch.save(mobilenet.state_dict(), tmp_path / "mobilenet.pth")
    cfg = cfg_of("FBNet-mobilenet_v2", "MODEL.FBNET.BN_TYPE", norm)
    body = build_backbone(cfg)
    report = load_weights(body, tmp_path / "mobilenet.pth", cfg)
    assert report.lineage == "torchvision-mobilenet" and report.missing == ()
    assert {name.rsplit(".", 1)[0] for name in report.unexpected} == {
        "features.18.0",
        "features.18.1",
        "classifier.1",
    }
    x = torch.randn(2, 3, 65, 96, dtype=torch.float64)
    with torch.no_grad():
        wanted = features_of(copy.deepcopy(mobilenet).double().features, x, (3, 6, 13, 17))
        for ours, theirs in zip(body.eval().double()(x), wanted, strict=True):
            # The identity holds 1 - epsilon in float32.
            torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-7)


def test_fbnet_c_gives_timms_features(fbnet_c, tmp_path):
    torch.save(fbnet_c.state_dict(), tmp_path / "fbnetc.pth")
    cfg = cfg_of("FBNet-fbnet_c")
    body = build_backbone(cfg)
    report = load_weights(body, tmp_path / "fbnetc.pth", cfg)
    assert report.lineage == "timm-fbnet" and report.missing == ()
    assert {name.split(".")[0] for name in report.unexpected} == {"conv_head", "bn2", "classifier"}
    x, model = torch.randn(2, 3, 65, 96, dtype=torch.float64), copy.deepcopy(fbnet_c).double()
    with torch.no_grad():
        wanted = features_of(model.blocks, model.bn1(model.conv_stem(x)), (1, 2, 4, 6))
        for ours, theirs in zip(body.eval().double()(x), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("name", "file"), [("mobilenet_v2", "mobilenet"), ("fbnet_c", "fbnet_c")])
def test_a_body_without_depthwise_norms_is_refused(name, file, tmp_path, request):
    torch.save(request.getfixturevalue(file).state_dict(), tmp_path / "file.pth")
    cfg = cfg_of(f"FBNet-{name}-FPN", "MODEL.FBNET.DW_CONV_SKIP_BN", True)
    with pytest.raises(ConvbodyError, match="set MODEL.FBNET.DW_CONV_SKIP_BN and") as caught:
        load_weights(build_backbone(cfg), tmp_path / "file.pth", cfg)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("lineage", "name", "file"),
    [(MOBILENET_V2, "mobilenet_v2", "mobilenet"), (FBNET_C, "fbnet_c", "fbnet_c")],
)
def test_it_is_written_back_exactly(lineage, name, file, tmp_path, request):
    theirs = request.getfixturevalue(file).state_dict()
    torch.save(theirs, tmp_path / "file.pth")
    backbone = build_backbone(cfg_of(f"FBNet-{name}", "MODEL.FBNET.BN_TYPE", "af"))
    load_weights(backbone, tmp_path / "file.pth")
    ours = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    renamed = lineage.to_theirs(ours)
    assert len(renamed) == len(ours)
    written = lineage.finish({new.name: ours[key] for key, new in renamed.items()})
    inside = {key for key in theirs if not key.startswith(("classifier", "features.18", "conv_head", "bn2"))}
    assert set(written) == inside
    assert all(torch.equal(written[key], theirs[key]) for key in inside if "num_batches" not in key)


def test_a_first_block_that_was_trained_has_no_name_there():
    backbone = build_backbone(cfg_of("FBNet-mobilenet_v2"))
    ours = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    renamed = MOBILENET_V2.to_theirs(ours)
    with pytest.raises(ConvbodyError, match="no longer the identity"):
        MOBILENET_V2.finish({new.name: ours[key] for key, new in renamed.items()})


def test_what_the_weights_were_trained_with(mobilenet):
    by_address = known_contract("torchvision://mobilenet_v2", {})
    by_tensors = known_contract("file.pth", mobilenet.state_dict())
    assert by_address is not None and by_address == by_tensors
    assert contradictions(by_address, cfg_of("FBNet-mobilenet_v2-FPN")) == {}
    assert "INPUT.TO_BGR255" in contradictions(by_address, cfg_of("FBNet-default-FPN"))
    timm = known_contract("timm://fbnetc_100.rmsp_in1k", {})
    assert timm is not None and contradictions(timm, cfg_of("FBNet-fbnet_c-FPN")) == {}
