"""What weights expect of a config, where that is known from, and a config that says otherwise."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from backbones.weights import known, load_weights
from backbones.weights.contract import WeightContract, check_contract, contract_of, contradictions
from backbones.weights.read import read_weights
from registry import ConfigError, load_cfg

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
RGB = [
    "INPUT.TO_BGR255",
    False,
    "INPUT.PIXEL_MEAN",
    [0.485, 0.456, 0.406],
    "INPUT.PIXEL_STD",
    [0.229, 0.224, 0.225],
]
TORCH = [*RGB, "MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.FROZEN_BN.EPSILON", 1e-5]
GN = [
    *("MODEL.RESNETS.STEM_FUNC", "StemWithGN", "MODEL.RESNETS.TRANS_FUNC", "BottleneckWithGN"),
    *("MODEL.RESNETS.STRIDE_IN_1X1", False),
]


def config(*opts, body="R-50-FPN"):
    return load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", body, *opts])


@pytest.mark.parametrize("size", [None, (28, 28)])
def test_a_contract_of_grey_images_and_its_size_come_back(size):
    contract = WeightContract("RGB", 1, (0.3,), (0.35,), None, 1e-3, size)
    assert WeightContract.from_record(json.loads(json.dumps(contract.record()))) == contract


@pytest.mark.parametrize(
    "change", [{"std": [1.0, 1.0]}, {"mean": [], "std": []}, {"size": [28]}, {"size": "ab"}]
)
def test_a_record_that_is_none(change):
    record = WeightContract("RGB", 1, (0.3,), (0.35,)).record()
    with pytest.raises(ConfigError, match="no contract of weights"):
        WeightContract.from_record({**record, **change})


def test_small_resnets_are_held_to_the_epsilon_of_their_norms():
    key = "MODEL.CIFAR_RESNETS.BN_EPSILON"
    trained = contract_of(config(key, 1e-3, body="R-20-CIFAR"))
    assert contradictions(trained, config(key, 1e-3, body="R-20-CIFAR-FPN")) == {}
    assert contradictions(trained, config(body="R-20-CIFAR-FPN")) == {key: 1e-3}
    assert contract_of(config("MODEL.CIFAR_RESNETS.NORM", "", body="R-20-CIFAR")).norm_epsilon is None


@pytest.mark.parametrize(
    ("weight", "opts"),
    [
        ("catalog://ImageNetPretrained/MSRA/R-50", []),
        ("catalog://ImageNetPretrained/MSRA/R-50-GN", GN),
        ("catalog://ImageNetPretrained/FAIR/20171220/X-101-32x8d", ["MODEL.RESNETS.STRIDE_IN_1X1", False]),
        ("catalog://Caffe2Detectron/COCO/35858933/e2e_mask_rcnn_R-50-FPN_1x", []),
        ("detectron2://ImageNetPretrained/MSRA/R-50.pkl", ["MODEL.FROZEN_BN.EPSILON", 1e-5]),
        (
            "detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl",
            [
                *("MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.FROZEN_BN.EPSILON", 1e-5),
                *("INPUT.PIXEL_STD", [57.375, 57.12, 58.395], "INPUT.PIXEL_MEAN", [103.53, 116.28, 123.675]),
            ],
        ),
        ("detectron2://ImageNetPretrained/torchvision/R-50.pkl", TORCH),
        ("torchvision://resnet50?weights=IMAGENET1K_V2", TORCH),
        ("torchvision://fasterrcnn_resnet50_fpn", [*TORCH, "MODEL.FROZEN_BN.EPSILON", 0.0]),
        ("torchvision://fasterrcnn_resnet50_fpn_v2", TORCH),
        ("torchvision://keypointrcnn_resnet50_fpn?weights=COCO_LEGACY", TORCH),
        ("timm://resnet50.a1_in1k", TORCH),
    ],
)
def test_a_config_made_for_the_published_weights_agrees_with_them(weight, opts):
    contract = known.known_contract(weight, {})
    assert contradictions(contract, config(*opts)) == {}
    other = config(*(TORCH if contract.channel_order == "BGR" else []))
    assert "INPUT.TO_BGR255" in contradictions(contract, other)


def test_tresnet_takes_images_as_they_are():
    contract = known.known_contract("timm://tresnet_m.miil_in21k_ft_in1k", {})
    assert (contract.channel_order, contract.value_range) == ("RGB", 1)
    assert (contract.mean, contract.std) == ((0.0,) * 3, (1.0,) * 3)
    assert contract.norm_epsilon == 1e-5


def test_all_contradictions_are_one_error_with_both_sides_and_the_keys():
    with pytest.raises(ConfigError) as caught:
        check_contract(known.TORCHVISION, config("MODEL.RESNETS.STRIDE_IN_1X1", True), "resnet50.pth")
    message = str(caught.value)
    for words in (
        "resnet50.pth",
        "INPUT.TO_BGR255 = True, the default, should be False",
        "INPUT.PIXEL_MEAN = [102.9801, 115.9465, 122.7717], the default, should be [0.485, 0.456, 0.406]",
        "INPUT.PIXEL_STD = [1.0, 1.0, 1.0], the default, should be [0.229, 0.224, 0.225]",
        "MODEL.RESNETS.STRIDE_IN_1X1 = True, set on the command line, should be False",
        "MODEL.FROZEN_BN.EPSILON = 0.0, the default, should be 1e-05",
        "MODEL.WEIGHT_CONTRACT",
    ):
        assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.TO_BGR255", True),
        ("INPUT.PIXEL_MEAN", [0.5, 0.5, 0.5]),
        ("INPUT.PIXEL_MEAN", [0.406, 0.456, 0.485]),
        ("INPUT.PIXEL_STD", [0.225, 0.224, 0.229]),
        ("MODEL.RESNETS.STRIDE_IN_1X1", True),
        ("MODEL.FROZEN_BN.EPSILON", 0.0),
    ],
)
def test_a_single_key_is_named_alone(key, value):
    assert list(contradictions(known.TORCHVISION, config(*TORCH, key, value)))[:1] == [key]


def test_rounded_and_rescaled_numbers_agree():
    in_grey_levels = replace(
        known.TORCHVISION, value_range=255, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
    )
    assert contradictions(in_grey_levels, config(*TORCH)) == {}
    assert contradictions(known.CAFFE2, config("INPUT.PIXEL_MEAN", [103.53, 116.28, 123.675])) == {}


def test_only_what_the_body_has_counts():
    for body, opts in {"R-18-FPN": ["MODEL.FROZEN_BN.EPSILON", 1e-5], "timm/resnet18-FPN": []}.items():
        assert contradictions(known.TORCHVISION, config(*RGB, *opts, body=body)) == {}
    # Batch norms that train have no key for their epsilon.
    norms = [
        "MODEL.RESNETS.STEM_FUNC",
        "StemWithBatchNorm",
        "MODEL.RESNETS.TRANS_FUNC",
        "BottleneckWithBatchNorm",
    ]
    assert contradictions(known.CAFFE2, config(*norms)) == {}
    assert contract_of(config(*norms)).norm_epsilon == 1e-5


def test_a_config_without_images_is_held_to_nothing():
    cfg = config()
    del cfg["INPUT"]
    assert contract_of(cfg) is None and contradictions(known.TORCHVISION, cfg) == {}


def test_warn_goes_on_and_anything_else_is_named(caplog):
    check_contract(known.TORCHVISION, config("MODEL.WEIGHT_CONTRACT", "warn"), "x.pth")
    assert "x.pth was trained with other settings" in caplog.text and "INPUT.TO_BGR255" in caplog.text
    with pytest.raises(ConfigError, match='must be "error" or "warn"'):
        check_contract(known.TORCHVISION, config("MODEL.WEIGHT_CONTRACT", "ignore"), "x.pth")


triples = st.tuples(*[st.floats(0, 300)] * 3)


@given(
    st.sampled_from(["RGB", "BGR"]),
    triples,
    triples,
    st.sampled_from([None, True]),
    st.sampled_from([None, 1e-3]),
)
def test_a_contract_survives_being_recorded(order, mean, std, stride, epsilon):
    contract = WeightContract(order, 255, mean, std, stride, epsilon)
    assert WeightContract.from_record(json.loads(json.dumps(contract.record()))) == contract


@pytest.mark.parametrize("opts", [[], TORCH, GN])
def test_weights_agree_with_the_config_they_were_trained_with(opts):
    cfg = config(*opts)
    assert contradictions(contract_of(cfg), cfg) == {}


RECORD = known.TORCHVISION.record()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_says_what_its_weights_expect(tmp_path, suffix, build_narrow):
    model, file = build_narrow("R-50"), tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save({"model": model.state_dict(), "contract": RECORD}, file)
    else:
        save_file(model.state_dict(), file, metadata={"contract": json.dumps(RECORD)})
    assert read_weights(file).contract == known.TORCHVISION
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = build_narrow("R-50")
    with pytest.raises(ConfigError, match="should be False"):
        load_weights(other, file, config())
    assert not torch.equal(other.body.stem.conv1.weight, before["body.stem.conv1.weight"])
    report = load_weights(other, file, config(*TORCH))
    assert report.contract == known.TORCHVISION and "no contract" not in str(report)
    assert torch.equal(other.body.stem.conv1.weight, before["body.stem.conv1.weight"])


@pytest.mark.parametrize(
    "record", [{}, {**RECORD, "mean": [1.0]}, {**RECORD, "channel_order": "GRB"}, {"x": 1}]
)
def test_a_record_that_is_none_is_named(tmp_path, record):
    torch.save({"model": {"a": torch.zeros(1)}, "contract": record}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="no contract of weights"):
        read_weights(tmp_path / "w.pth")


def test_names_tell_where_they_are_clear(tmp_path):
    conv, norm = torch.zeros(4, 4, 3, 3), torch.zeros(4)
    classifier = dict.fromkeys(
        ("bn1.running_var", "layer1.0.conv1.weight", "layer4.0.bn2.weight", "fc.weight"), norm
    )
    for state, contract in (
        ({"conv1_w": conv, "res2_0_branch2b_w": conv}, known.CAFFE2),
        ({"conv1_w": conv, "res2_0_branch2b_w": conv[:, :1]}, known.CAFFE2_RESNEXT),
        ({"conv1_w": conv, "conv1_gn_s": norm}, known.CAFFE2_GN),
        ({"conv1.weight": conv, **classifier}, known.TORCHVISION),
        ({"stem.conv1.weight": conv, "res2.0.conv1.weight": conv}, None),
        ({"body.stem.conv1.weight": conv}, None),
    ):
        assert known.known_contract(str(tmp_path / "w.pth"), state) == contract


def test_a_file_of_unknown_origin_is_held_to_nothing_and_says_so(tmp_path, build_narrow):
    model = build_narrow("R-50")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    assert "no contract known" in str(load_weights(model, tmp_path / "w.pth", config(*TORCH)))


@pytest.mark.parametrize(
    "file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONFIGS))
)
def test_a_shipped_config_agrees_with_the_weights_it_names(file, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    cfg = load_cfg(str(file))
    contract = known.known_contract(cfg.MODEL.WEIGHT, {})
    assert contract is None or contradictions(contract, cfg) == {}
