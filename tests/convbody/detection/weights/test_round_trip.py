"""From our names to those of another lineage and back, through files."""

import pytest
import torch

from backbones.weights import load_weights
from backbones.weights.contract import WeightContract
from backbones.weights.read import read_tensors, read_weights
from backbones.weights.write import convert, write_tensors
from registry import ConvbodyError

#: 10 and 5 times a tenth and a fifth are not always the same float.
ROUNDED = ("head.regression_head.bbox_reg.weight", "head.regression_head.bbox_reg.bias")
SUFFIXES = {"maskrcnn-benchmark": "pth", "caffe2": "pkl", "convbody": "safetensors"}
CASES = [
    *(("maskrcnn-benchmark", case) for case in ("mask_gn", "mask_c4", "keypoint", "retinanet")),
    *(("caffe2", case) for case in ("rpn", "four_convs", "mask_c4", "mask_gn", "keypoint", "retinanet")),
    *(
        pytest.param("caffe2", case, marks=pytest.mark.slow)
        for case in ("agnostic", "faster_c4", "mask_fpn", "resnext")
    ),
    ("convbody", "faster_fpn"),
]


@pytest.mark.parametrize(("to", "case"), CASES)
def test_every_tensor_comes_back(detectors, tmp_path, to, case):
    model = detectors.build(case)
    state = model.state_dict()
    file = tmp_path / f"weights.{SUFFIXES[to]}"
    write_tensors(convert(state, to).state, file, to)
    written = read_tensors(str(file))
    assert to == "convbody" or state.keys() != written.keys()
    back = convert(written, "convbody")
    assert (back.source, back.left_out) == (to, ())
    assert back.state.keys() == state.keys()
    target = detectors.build(case)
    detectors.fill(target.state_dict(), seed=1)
    report = load_weights(target, file)
    assert (report.lineage, report.missing, report.unexpected, report.wrong_shape) == (to, (), (), ())
    for name, tensor in state.items():
        for other in (back.state[name], target.state_dict()[name]):
            if name in ROUNDED:
                torch.testing.assert_close(other, tensor, rtol=2e-7, atol=0)
            else:
                assert torch.equal(other, tensor), name


@pytest.mark.parametrize("suffix", ["pth", "pkl", "safetensors"])
def test_what_weights_expect_goes_with_them(tmp_path, suffix):
    contract = WeightContract("RGB", 1, (0.5, 0.5, 0.5), (0.1, 0.2, 0.3), False, 1e-3)
    file = tmp_path / f"weights.{suffix}"
    write_tensors({"conv1_w": torch.ones(2).bfloat16()}, file, "convbody", contract)
    read = read_weights(file)
    assert read.contract == contract and torch.equal(read.tensors["conv1_w"].float(), torch.ones(2))


def test_a_pickle_is_read_by_older_numpy(tmp_path):
    write_tensors({"conv1_w": torch.ones(2)}, tmp_path / "w.pkl", "caffe2")
    content = (tmp_path / "w.pkl").read_bytes()
    assert b"numpy.core.multiarray" in content and b"numpy._core" not in content


def test_what_a_lineage_has_no_name_for_is_listed(detectors):
    state = detectors.build("mask_fpn").state_dict()
    state["roi_heads.tail.weight"] = torch.zeros(3)
    with pytest.raises(ConvbodyError, match="caffe2 has no name for 1 of 306 tensors: roi_heads.tail.weight"):
        convert(state, "caffe2")
    state.pop("roi_heads.tail.weight")
    state["backbone.body.layer3.2.bn1.running_var"] += 1
    with pytest.raises(ConvbodyError, match="res4_2_branch2a_bn_riv is not 1 throughout"):
        convert(state, "caffe2")


@pytest.mark.parametrize(
    ("word", "message"), [("cafe2", "no lineage cafe2; nearest: caffe2"), ("x", "known: ")]
)
def test_an_unknown_lineage_is_named(word, message):
    with pytest.raises(ConvbodyError, match=message):
        convert({"a": torch.zeros(1)}, word)


def test_a_file_of_nobody_is_refused():
    with pytest.raises(ConvbodyError, match="none of the 1 tensors has a name of caffe2"):
        convert({"a": torch.zeros(1)}, "convbody", "caffe2")


@pytest.mark.parametrize(
    ("target", "message"), [("x.onnx", "written to .pth"), ("nowhere/x.pkl", "cannot write")]
)
def test_a_target_that_cannot_be_written_is_named(tmp_path, target, message):
    with pytest.raises(ConvbodyError, match=message):
        write_tensors({"conv1_w": torch.zeros(1)}, tmp_path / target, "caffe2")
