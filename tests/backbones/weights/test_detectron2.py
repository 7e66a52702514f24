import pickle

import pytest
import torch

from backbones.weights import load_weights


def name_there(name):
    """Our name -> detectron2's, in a detector with an FPN."""
    parts = name.split(".")
    last = parts[-1]
    if parts[0] == "fpn":
        if parts[1] == "top_blocks":
            return f"backbone.top_block.{parts[2]}.{last}"
        kind = "lateral" if "inner" in parts[1] else "output"
        norm = "norm." if parts[2] == "1" else ""
        return f"backbone.fpn_{kind}{int(parts[1][-1]) + 1}.{norm}{last}"
    if parts[1] == "stem":
        there = "stem.conv1"
    else:
        layer = "shortcut" if parts[3] == "downsample" else f"conv{parts[3][-1]}"
        there = f"res{int(parts[1][-1]) + 1}.{parts[2]}.{layer}"
    is_norm = parts[-2].startswith("bn") or parts[-3:-1] == ["downsample", "1"]
    return f"backbone.bottom_up.{there}.{'norm.' * is_norm}{last}"


def renamed_state(backbone):
    """All of a backbone as random tensors under detectron2's names, and our names for them."""
    generator = torch.Generator().manual_seed(0)
    names = {name: name_there(name) for name in backbone.state_dict()}
    assert len(set(names.values())) == len(names)
    shapes = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    return names, {there: torch.randn(shapes[name], generator=generator) for name, there in names.items()}


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
@pytest.mark.parametrize(
    ("name", "gn"), [("R-50-FPN", False), ("R-50-FPN", True), ("R-50-FPN-RETINANET", False)]
)
def test_a_whole_backbone(tmp_path, build_narrow, name, gn, suffix):
    backbone = build_narrow(name, gn=gn)
    names, state = renamed_state(backbone)
    file = tmp_path / f"model.{suffix}"
    if suffix == "pth":
        torch.save({"model": state, "iteration": 7}, file)
    else:
        arrays = {there: tensor.numpy() for there, tensor in state.items()}
        file.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}, protocol=4))
    report = load_weights(backbone, file)
    assert (report.missing, report.unexpected, report.wrong_shape) == ((), (), ())
    for ours, there in names.items():
        assert torch.equal(backbone.state_dict()[ours], state[there]), ours


def test_names_by_hand(tmp_path, build_narrow):
    backbone = build_narrow("R-50-FPN")
    _, state = renamed_state(backbone)
    torch.save(state, tmp_path / "model.pth")
    load_weights(backbone, tmp_path / "model.pth")
    for there, ours in {
        "backbone.bottom_up.stem.conv1.weight": "body.stem.conv1.weight",
        "backbone.bottom_up.stem.conv1.norm.running_var": "body.stem.bn1.running_var",
        "backbone.bottom_up.res2.0.conv1.weight": "body.layer1.0.conv1.weight",
        "backbone.bottom_up.res2.0.shortcut.weight": "body.layer1.0.downsample.0.weight",
        "backbone.bottom_up.res5.0.shortcut.norm.bias": "body.layer4.0.downsample.1.bias",
        "backbone.bottom_up.res4.5.conv3.norm.weight": "body.layer3.5.bn3.weight",
        "backbone.fpn_lateral2.weight": "fpn.fpn_inner1.weight",
        "backbone.fpn_output5.bias": "fpn.fpn_layer4.bias",
    }.items():
        assert torch.equal(backbone.state_dict()[ours], state[there]), there


@pytest.mark.parametrize("prefix", ["", "backbone."], ids=["ImageNet file", "C4 detector"])
def test_a_body_alone(tmp_path, build_narrow, prefix):
    source = build_narrow("R-50")
    names, state = renamed_state(source)
    bare = {prefix + there.removeprefix("backbone.bottom_up."): value for there, value in state.items()}
    torch.save({**bare, "stem.fc.weight": torch.zeros(2, 2)}, tmp_path / "R-50.pth")
    target = build_narrow("R-50-FPN")
    report = load_weights(target, tmp_path / "R-50.pth")
    assert report.unexpected == ("stem.fc.weight",)
    assert {name.split(".")[0] for name in report.missing} == {"fpn"}
    for ours, there in names.items():
        assert torch.equal(target.state_dict()[ours], state[there]), ours
