"""Weights that are no finite real numbers are named and refused, in every kind of file."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from backbones import build_backbone
from backbones.weights import load_weights
from registry import ConfigError, load_cfg

NAME = "layer2.0.conv1.weight"
BATCH_NORM = (
    "MODEL.RESNETS.STEM_FUNC",
    "StemWithBatchNorm",
    "MODEL.RESNETS.TRANS_FUNC",
    "BottleneckWithBatchNorm",
)


NARROW = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8]


@pytest.fixture(scope="module")
def body():
    """One body for all files that are refused, which leave it as it is."""
    options = ["MODEL.RESNETS.TRANS_FUNC", "BasicBlockWithFixedBatchNorm", *NARROW]
    return build_backbone(load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "R-18", *options]))


def write(file, state):
    if file.suffix == ".pkl":
        file.write_bytes(pickle.dumps({name: tensor.numpy() for name, tensor in state.items()}))
    elif file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save({"model": state}, file)


def refused(body, file):
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    with pytest.raises(ConfigError) as caught:
        load_weights(body, file, load_cfg(None, ["MODEL.WEIGHT", str(file)]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in body.state_dict().items())
    message = str(caught.value)
    assert "set on the command line" in message and "\n" not in message
    return message


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.bool, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.complex64),
        *(torch.float8_e4m3fn, torch.float8_e5m2),
    ],
)
def test_other_types_are_refused(tmp_path, body, suffix, dtype):
    if suffix == ".pkl" and "float8" in str(dtype):
        pytest.skip("numpy has none")
    state = body.body.state_dict()
    write(tmp_path / f"w{suffix}", {**state, NAME: state[NAME].to(dtype)})
    message = refused(body, tmp_path / f"w{suffix}")
    assert f"no finite real numbers: {NAME} is {str(dtype).removeprefix('torch.')} (" in message


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_numbers_that_are_not_finite_are_refused(tmp_path, body, value, dtype):
    state = {name: tensor.to(dtype) for name, tensor in body.body.state_dict().items()}
    for name in (NAME, "layer3.0.bn1.running_var", "layer4.0.bn1.bias", "layer4.0.bn1.weight"):
        state[name] = state[name].clone()
        state[name].flatten()[-1] = value
    write(tmp_path / "w.pth", state)
    message = refused(body, tmp_path / "w.pth")
    assert f"{NAME} is NaN or infinite, layer3.0.bn1.running_var is" in message and "and 1 more (" in message


def test_numbers_beyond_the_type_that_they_fill_are_refused(tmp_path, body):
    state = {name: tensor.double() for name, tensor in body.body.state_dict().items()}
    state[NAME] = state[NAME] * 0 + 1e39
    write(tmp_path / "w.pth", state)
    assert f"{NAME} is NaN or infinite" in refused(body, tmp_path / "w.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_real_numbers_of_any_precision_are_loaded(tmp_path, build_narrow, dtype):
    source, body = build_narrow("R-50"), build_narrow("R-50")
    state = {name: tensor.to(dtype) for name, tensor in source.body.state_dict().items()}
    write(tmp_path / "w.pth", state)
    load_weights(body, tmp_path / "w.pth")
    assert all(torch.equal(tensor, state[name].float()) for name, tensor in body.body.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32])
def test_counters_are_whole_numbers(tmp_path, build_narrow, dtype):
    body = build_narrow("R-50", *BATCH_NORM)
    state = {
        name: torch.tensor(7, dtype=dtype) if name.endswith("num_batches_tracked") else tensor
        for name, tensor in body.state_dict().items()
    }
    write(tmp_path / "w.pth", state)
    load_weights(body, tmp_path / "w.pth")
    assert body.body.layer1[0].bn1.num_batches_tracked == 7


def test_what_is_not_loaded_may_be_anything(tmp_path, build_narrow):
    body = build_narrow("R-50")
    odd = {"fc.weight": torch.full((3, 3), torch.nan), "fc.bias": torch.zeros(3, dtype=torch.int8)}
    write(tmp_path / "w.pth", {**body.body.state_dict(), **odd})
    assert set(load_weights(body, tmp_path / "w.pth").unexpected) == odd.keys()
