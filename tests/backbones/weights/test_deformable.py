"""Files with plain convolutions in bodies whose convolutions are deformable."""

import pickle

import pytest
import torch

from backbones.tresnet.body import TResNet, Variant
from backbones.weights import load_weights
from backbones.weights.write import convert, write_tensors
from registry import load_cfg

FORMATS = ["convbody", "maskrcnn-benchmark", "caffe2", "detectron2", "torchvision", "timm"]
V1 = ["MODEL.RESNETS.STAGE_WITH_DCN", (False, True, True, True)]
V2 = [*V1, "MODEL.RESNETS.WITH_MODULATED_DCN", True]
BLOCKS = 4 + 6 + 3  # of R-50's last three stages


def randomised(module):
    """``module`` with random weights; statistics stay those that every format can hold."""
    for name, tensor in module.state_dict().items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            tensor.normal_()
    return module


def check_filled(target, before, plain):
    """Every tensor of ``plain`` is in ``target``, the 3x3 filters inside; offsets are as ``before``."""
    state = target.state_dict()
    offsets = {name for name in state if ".offset." in name}
    assert all(torch.equal(state[name], before[name]) for name in offsets)
    for name, tensor in plain.items():
        inner = ".conv.".join(name.rsplit(".", 1))
        assert torch.equal(state[inner if inner in state else name], tensor), name
    return offsets


@pytest.mark.parametrize("opts", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("name", FORMATS)
def test_plain_filters_go_into_the_deformable_convolutions(tmp_path, build_narrow, name, opts):
    plain = randomised(build_narrow("R-50"))
    target = build_narrow("R-50", *opts)
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    file = tmp_path / ("w.pkl" if name == "caffe2" else "w.pth")
    write_tensors(convert(plain.state_dict(), name).state, file, name)
    report = load_weights(target, file)
    offsets = check_filled(target, before, plain.state_dict())
    assert set(report.initialised) == offsets and len(offsets) == 2 * BLOCKS
    assert (report.missing, report.unexpected, report.wrong_shape) == ((), (), ())
    assert f"{2 * BLOCKS} offsets left as initialised: body.layer2.0 (2)" in str(report)
    assert not report.is_complete  # the offsets are not trained


def test_caffe2s_filter_by_its_name(tmp_path, build_narrow):
    """What write_tensors makes of it aside: the blob of a 3x3 convolution, by its name in the file."""
    arrays = {
        name: tensor.numpy()
        for name, tensor in convert(build_narrow("R-50").state_dict(), "caffe2").state.items()
    }
    arrays["res4_2_branch2b_w"] = torch.randn(arrays["res4_2_branch2b_w"].shape).numpy()
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": arrays}))
    target = build_narrow("R-50", *V2)
    load_weights(target, tmp_path / "R-50.pkl")
    filter_ = target.body.layer3[2].conv2.conv.weight
    assert torch.equal(filter_, torch.from_numpy(arrays["res4_2_branch2b_w"]))


@pytest.mark.parametrize("opts", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("name", ["convbody", "maskrcnn-benchmark", "detectron2"])
def test_a_deformable_file_still_fills_everything(tmp_path, build_narrow, name, opts):
    source, target = randomised(build_narrow("R-50", *opts)), build_narrow("R-50", *opts)
    write_tensors(convert(source.state_dict(), name).state, tmp_path / "w.pth", name)
    report = load_weights(target, tmp_path / "w.pth")
    assert report.is_complete and report.initialised == report.unexpected == ()
    for key, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], tensor), key


def test_offsets_of_another_number_are_of_wrong_shape(tmp_path, build_narrow):
    torch.save(build_narrow("R-50", *V1).state_dict(), tmp_path / "w.pth")
    report = load_weights(build_narrow("R-50", *V2), tmp_path / "w.pth")
    assert {name.rpartition(".")[0].rpartition(".")[2] for name, _, _ in report.wrong_shape} == {"offset"}
    assert len(report.wrong_shape) == 2 * BLOCKS and report.initialised == ()


def test_other_missing_tensors_still_count(tmp_path, build_narrow):
    """The offsets alone are left out of the count: 36 of 265 missing tensors are too many, as ever."""
    state = build_narrow("R-50").state_dict()
    torch.save(dict(list(state.items())[36:]), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="fits 229 of the 265 tensors .* offsets left as initialised"):
        load_weights(build_narrow("R-50", *V1), tmp_path / "w.pth")


@pytest.mark.parametrize("groups", [1, 2], ids=["one group", "two groups"])
@pytest.mark.parametrize("modulated", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("name", ["convbody", "tresnet", "timm-tresnet"])
def test_tresnets_bottlenecks(tmp_path, name, modulated, groups):
    variant = Variant((1, 1, 2, 1), width=8)
    options = ["MODEL.BACKBONE.CONV_BODY", "TResNet-M"]
    plain = TResNet(variant, load_cfg(None, options))
    dcn = {"STAGE_WITH_DCN": (False, False, True, True), "WITH_MODULATED_DCN": modulated}
    for key, value in (dcn | {"DEFORMABLE_GROUPS": groups}).items():
        options += [f"MODEL.TRESNETS.{key}", value]
    target = TResNet(variant, load_cfg(None, options))
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    torch.save(convert(plain.state_dict(), name).state, tmp_path / "w.pth")
    report = load_weights(target, tmp_path / "w.pth")
    offsets = check_filled(target, before, {key: t for key, t in plain.state_dict().items() if t.dim() == 4})
    assert set(report.initialised) == offsets and len(offsets) == 6
    assert report.missing == () and report.wrong_shape == ()


def test_groups_of_a_resnext(tmp_path, build_narrow):
    groups = ["MODEL.RESNETS.NUM_GROUPS", 4]
    plain, target = build_narrow("R-50", *groups), build_narrow("R-50", *groups, *V2)
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    torch.save(plain.state_dict(), tmp_path / "w.pth")
    load_weights(target, tmp_path / "w.pth")
    check_filled(target, before, plain.state_dict())
