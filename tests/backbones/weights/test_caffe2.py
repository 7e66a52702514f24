import pickle

import numpy as np
import pytest
import torch

from backbones.weights import load_weights
from registry import ConfigError

PART = {"1": "branch2a", "2": "branch2b", "3": "branch2c"}
LAST = {"R-50": (2, 3, 5, 2), "R-101": (2, 3, 22, 2)}


def blob_name(name, depth, norm):
    """Our name -> the blob's, or None for what those files do not have."""
    parts = name.split(".")
    if parts[-1].startswith("running_"):
        return None
    kind = {"weight": "w", "bias": "b"}[parts[-1]]
    scale = {"weight": "s", "bias": "b"}[parts[-1]]
    if parts[0] == "fpn":
        if parts[1] == "top_blocks":
            return f"fpn_{parts[2][1]}_{kind}"
        stage = int(parts[1][-1])
        blob = f"res{stage + 1}_{LAST[depth][stage - 1]}_sum"
        blob = f"fpn_inner_{blob}" if "inner" in parts[1] else f"fpn_{blob}"
        if "inner" in parts[1] and stage < 4:
            blob += "_lateral"
        return f"{blob}_gn_{scale}" if parts[2] == "1" else f"{blob}_{kind}"
    if parts[1] == "stem":
        if parts[2] == "conv1":
            return "conv1_w"
        return f"conv1_gn_{scale}" if norm == "gn" else f"res_conv1_bn_{scale}"
    block = f"res{int(parts[1][-1]) + 1}_{parts[2]}"
    if parts[3] == "downsample":
        return f"{block}_branch1_w" if parts[4] == "0" else f"{block}_branch1_{norm}_{scale}"
    branch = f"{block}_{PART[parts[3][-1]]}"
    return f"{branch}_w" if parts[3].startswith("conv") else f"{branch}_{norm}_{scale}"


def blobs_of(backbone, depth, norm="bn"):
    """Random blobs for all of a backbone, and our names for them."""
    rng = np.random.default_rng(0)
    names = {name: blob_name(name, depth, norm) for name in backbone.state_dict()}
    names = {name: blob for name, blob in names.items() if blob}
    assert len(set(names.values())) == len(names)
    state = backbone.state_dict()
    return names, {b: rng.standard_normal(state[n].shape, dtype=np.float32) for n, b in names.items()}


def write(path, content):
    path.write_bytes(pickle.dumps(content, protocol=4))
    return path


@pytest.mark.parametrize(
    ("name", "gn"),
    [("R-50-FPN", False), ("R-50-FPN", True), ("R-101-FPN", False), ("R-50-FPN-RETINANET", False)],
)
def test_a_whole_backbone(tmp_path, build_narrow, name, gn):
    backbone = build_narrow(name, gn=gn)
    names, blobs = blobs_of(backbone, "-".join(name.split("-")[:2]), "gn" if gn else "bn")
    report = load_weights(backbone, write(tmp_path / "w.pkl", {"blobs": blobs, "cfg": ""}))
    assert (report.missing, report.unexpected, report.wrong_shape) == ((), (), ())
    state = backbone.state_dict()
    for ours, blob in names.items():
        assert torch.equal(state[ours], torch.from_numpy(blobs[blob])), ours
    for ours in state.keys() - names.keys():
        assert torch.all(state[ours] == (1 if ours.endswith("running_var") else 0)), ours


def test_names_by_hand(tmp_path, build_narrow):
    """Names as they stand in published files, apart from the rule the other tests write them by."""
    backbone = build_narrow("R-101-FPN")
    _, blobs = blobs_of(backbone, "R-101")
    load_weights(backbone, write(tmp_path / "w.pkl", {"blobs": blobs}))
    state = backbone.state_dict()
    for blob, ours in {
        "conv1_w": "body.stem.conv1.weight",
        "res_conv1_bn_s": "body.stem.bn1.weight",
        "res_conv1_bn_b": "body.stem.bn1.bias",
        "res2_0_branch2a_w": "body.layer1.0.conv1.weight",
        "res2_0_branch2a_bn_s": "body.layer1.0.bn1.weight",
        "res2_0_branch1_w": "body.layer1.0.downsample.0.weight",
        "res3_0_branch1_bn_b": "body.layer2.0.downsample.1.bias",
        "res4_22_branch2c_w": "body.layer3.22.conv3.weight",
        "res5_2_branch2b_bn_b": "body.layer4.2.bn2.bias",
        "fpn_inner_res5_2_sum_w": "fpn.fpn_inner4.weight",
        "fpn_inner_res4_22_sum_lateral_w": "fpn.fpn_inner3.weight",
        "fpn_inner_res2_2_sum_lateral_b": "fpn.fpn_inner1.bias",
        "fpn_res5_2_sum_w": "fpn.fpn_layer4.weight",
        "fpn_res3_3_sum_b": "fpn.fpn_layer2.bias",
    }.items():
        assert torch.equal(state[ours], torch.from_numpy(blobs[blob])), blob


def test_an_imagenet_file_gives_the_body_and_says_what_it_has_beside(tmp_path, build_narrow):
    source = build_narrow("R-50")
    names, blobs = blobs_of(source, "R-50")
    beside = {"fc1000_w": np.zeros((3, 3)), "conv1_b": np.zeros(3)}
    solver = {"lr": np.zeros(1), "conv1_w_momentum": np.zeros(3)}
    target = build_narrow("R-50-FPN")
    report = load_weights(target, write(tmp_path / "R-50.pkl", {**blobs, **beside, **solver}))
    assert report.unexpected == ("fc1000_w", "conv1_b")
    assert {name.split(".")[0] for name in report.missing} == {"fpn"}
    assert "2 unexpected: fc1000_w, conv1_b" in report.summary()
    assert all(torch.equal(target.state_dict()[n], torch.from_numpy(blobs[b])) for n, b in names.items())


def test_into_a_body_alone(tmp_path, build_narrow):
    body = build_narrow("R-50").body
    _, blobs = blobs_of(build_narrow("R-50"), "R-50")
    assert load_weights(body, write(tmp_path / "w.pkl", blobs)).missing == ()
    assert torch.equal(body.stem.conv1.weight, torch.from_numpy(blobs["conv1_w"]))


def test_statistics_of_a_file_that_has_them_are_taken(tmp_path, build_narrow):
    backbone = build_narrow("R-50")
    _, blobs = blobs_of(backbone, "R-50")
    blobs["res_conv1_bn_rm"] = np.full(32, 3, np.float32)
    blobs["res_conv1_bn_riv"] = np.full(32, 4, np.float32)
    load_weights(backbone, write(tmp_path / "w.pkl", blobs))
    assert torch.all(backbone.body.stem.bn1.running_mean == 3)
    assert torch.all(backbone.body.stem.bn1.running_var == 4)


def test_statistics_of_an_earlier_life_do_not_stay(tmp_path, build_narrow):
    backbone = build_narrow("R-50")
    backbone.body.layer1[0].bn1.running_var.fill_(9)
    _, blobs = blobs_of(backbone, "R-50")
    load_weights(backbone, write(tmp_path / "w.pkl", blobs))
    assert torch.all(backbone.body.layer1[0].bn1.running_var == 1)


@pytest.mark.parametrize(
    "name", ["xres2_0_branch2a_w", "res2_0_branch2a_w_x", "fpn_inner_res4_4_sum_lateral_w"]
)
def test_names_match_whole(tmp_path, build_narrow, name):
    backbone = build_narrow("R-50-FPN")
    _, blobs = blobs_of(backbone, "R-50")
    blobs[name] = np.zeros(1, np.float32)
    report = load_weights(backbone, write(tmp_path / "w.pkl", blobs))
    assert report.unexpected == (name,) and report.wrong_shape == ()


def test_a_wholly_wrong_file_never_passes(tmp_path, build_narrow):
    _, blobs = blobs_of(build_narrow("R-50"), "R-50")
    wrong = {f"x{name}": value for name, value in blobs.items()}
    with pytest.raises(ConfigError, match="fits 0 of the 265"):
        load_weights(build_narrow("R-50"), write(tmp_path / "w.pkl", wrong))
