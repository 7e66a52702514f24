"""Real pairs are the same within rounding; every planted mistake is placed by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convbody.compare.batch import random_images, random_scenes
from convbody.compare.models import from_config, named
from convbody.compare.observe import Side
from convbody.compare.port import compare_sides, enliven_norms
from convbody.compare.verdict import Status
from convbody.compare.words import verdict_sentences
from convbody.detection.inputs import TargetNeeds
from registry import ConvbodyError, load_cfg

FROZEN = {
    "MODEL.RESNETS.STEM_FUNC": "StemWithFixedBatchNorm",
    "MODEL.RESNETS.TRANS_FUNC": "BottleneckWithFixedBatchNorm",
}


def test_a_model_is_itself_to_the_last_bit(compared):
    comparison = compared(steps=2)
    assert comparison.parting is None
    assert {row.status for row in comparison.rows} <= {Status.EXACT, Status.NOISE}
    phases = list(dict.fromkeys(row.place.phase for row in comparison.rows))
    assert phases == ["weights", "forward", "loss", "gradients", "step 1", "step 2"]


def test_another_order_of_the_same_sums_is_rounding(compared):
    def plant(side: Side) -> None:
        for module in side.model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(_in_halves)

    comparison = compared(plant=plant)
    assert comparison.parting is None
    assert sum(row.status is Status.ROUNDING for row in comparison.rows) > 50


def _in_halves(module, args, output):
    """The same convolution, its input channels summed in two groups."""
    x, count = args[0], args[0].shape[1] // 2
    first, second = module.weight[:, :count], module.weight[:, count:]
    shape = {"stride": module.stride, "padding": module.padding}
    sums = nn.functional.conv2d(x[:, :count], first, module.bias, **shape)
    return sums + nn.functional.conv2d(x[:, count:], second, None, **shape)


# What is planted in the second side, and where it has to be found: (phase, name, what).
MISTAKES = {
    "stride in the other convolution": (
        {"MODEL.RESNETS.STRIDE_IN_1X1": False},
        None,
        ("forward", "body.layer2.0.conv1", "output"),
    ),
    "padding": (
        {},
        lambda side: setattr(side.model.body.stem.conv1, "padding", (2, 2)),
        ("forward", "body.stem.conv1", "output"),
    ),
    "padding by reflection": (
        {},
        lambda side: _reflecting(side.model.body.layer2[1].conv2),
        ("forward", "body.layer2.1.conv2", "output"),
    ),
    "norm epsilon": (
        {},
        lambda side: setattr(side.model.body.layer3[1].bn2, "eps", 1e-3),
        ("forward", "body.layer3.1.bn2", "output"),
    ),
    "BGR": (
        {},
        lambda side: side.model.register_forward_pre_hook(lambda module, args: (args[0].flip(1),)),
        ("forward", "body.stem.conv1", "input"),
    ),
    "a sign lost between two blocks": (
        {},
        lambda side: side.model.body.layer1[1].register_forward_pre_hook(lambda m, args: (-args[0],)),
        ("forward", "body.layer1.1.conv1", "input"),
    ),
    "a norm that moves its statistics faster": (
        {},
        lambda side: setattr(side.model.body.layer2[0].bn3, "momentum", 0.01),
        ("step 1", "body.layer2.0.bn3.running_mean", "value"),
    ),
    "weight decay on norms": (
        {"SOLVER.WEIGHT_DECAY_NORM": 0.0},
        None,
        ("step 1", "body.stem.bn1.weight", "value"),
    ),
    "bias learning rate": (
        {"SOLVER.BIAS_LR_FACTOR": 1.0},
        None,
        ("step 1", "body.stem.bn1.bias", "value"),
    ),
    "momentum": (
        {"SOLVER.MOMENTUM": 0.85},
        None,
        ("step 2", "body.stem.conv1.weight", "value"),
    ),
    "a gradient halved between two layers": (
        {},
        lambda side: side.model.body.layer2[1].conv2.register_full_backward_hook(
            lambda module, grads, _: (grads[0] * 0.5,)
        ),
        ("gradients", "body.layer2.1.bn1.weight", "value"),
    ),
}


def _reflecting(conv: nn.Conv2d) -> None:
    conv.padding_mode = "reflect"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_placed(mistake, compared):
    changes, plant, (phase, name, what) = MISTAKES[mistake]
    parting = compared(changes, plant, steps=2 if phase == "step 2" else 1).parting
    assert parting is not None
    assert (parting.place.phase, parting.place.name, parting.place.what) == (phase, name, what)


def test_a_missing_epsilon_of_frozen_norms_is_placed(compared):
    """Of all mistakes the smallest: 5e-6 of a value."""
    parting = compared({"MODEL.FROZEN_BN.EPSILON": 1e-5}, first=FROZEN).parting
    assert str(parting.place) == "body.stem.bn1 (output)"
    assert parting.error < 2e-5


def test_the_sentences_say_what_differs(compared):
    text = " ".join(verdict_sentences(compared({"SOLVER.WEIGHT_DECAY_NORM": 0.0})))
    assert "after step 1: body.stem.bn1.weight" in text
    assert "The optimiser has weight_decay 0.0001 here, 0.0 there." in text
    changes, plant, _ = MISTAKES["norm epsilon"]
    text = " ".join(verdict_sentences(compared(changes, plant)))
    assert "eps=1e-05" in text and "eps=0.001" in text
    changes, plant, _ = MISTAKES["BGR"]
    assert "RGB on one side is BGR on the other" in " ".join(verdict_sentences(compared(changes, plant)))


def test_float32_inside_a_float64_run_is_noticed(side_of):
    """Such a run is no reference for differences below float32's rounding."""
    batch = random_images(2, 64, 64, 0)
    exact, rounding = side_of(FROZEN), side_of(FROZEN)
    rounding.model.body.stem.register_forward_hook(lambda m, args, out: out.float().to(out.dtype))
    comparison = compare_sides(exact, rounding, batch)
    assert (comparison.first.pure, comparison.second.pure) == (True, False)
    assert comparison.parting is None


def test_weights_of_their_own_are_compared_as_they_are(side_of):
    first, second = side_of(), side_of()
    second.model.get_submodule("body.layer2.0.conv1").weight.data *= 1.001
    comparison = compare_sides(first, second, random_images(2, 64, 64, 0), carry=False)
    assert (comparison.parting.place.phase, comparison.parting.place.name) == (
        "weights",
        "body.layer2.0.conv1.weight",
    )


def test_a_layer_that_is_not_finite_is_named(compared, side_of):
    def overflow(side: Side) -> None:
        side.model.body.layer2[0].bn2.register_forward_hook(lambda m, args, out: out * float("inf"))

    parting = compared(plant=overflow).parting
    assert str(parting.place) == "body.layer2.0.bn2 (output)"
    assert parting.detail == "not finite there"
    first, second = side_of(), side_of()
    overflow(first)
    overflow(second)
    with pytest.raises(ConvbodyError, match=r"body\.layer2\.0\.bn2 \(output\) is not finite on either side"):
        compare_sides(first, second, random_images(2, 64, 64, 0))


def test_dropout_is_at_rest(cfg_of):
    sides = [named(f"{__name__}:dropping", cfg_of(), "backbone") for _ in range(2)]
    comparison = compare_sides(*sides, random_images(2, 16, 16, 0))
    assert comparison.parting is None
    assert {row.place.name for row in comparison.rows} >= {"logits", "loss: cross entropy"}


class Dropping(nn.Sequential):
    """A classifier with dropout."""


def dropping() -> tuple[nn.Module, torch.optim.Optimizer]:
    conv = nn.Conv2d(3, 4, 3)
    model = Dropping(conv, nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def test_an_optimiser_of_the_other_side_counts(side_of):
    """torch's own SGD, told the same, is the same; told to leave out momentum, it parts in step 2."""
    first, batch = (
        side_of({"SOLVER.BIAS_LR_FACTOR": 1.0, "SOLVER.WEIGHT_DECAY_BIAS": 1e-4}),
        random_images(2, 64, 64, 0),
    )
    for momentum, place in ((0.9, None), (0.8, "step 2")):
        second = side_of()
        second.optimizer = torch.optim.SGD(
            second.model.parameters(), lr=0.02, momentum=momentum, weight_decay=1e-4
        )
        parting = compare_sides(first, second, batch, steps=2).parting
        assert (parting and parting.place.phase) == place


def test_detectors_are_compared_by_their_own_losses(cfg_of):
    changes = {
        "MODEL.BACKBONE.CONV_BODY": "R-18-FPN",
        "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 16,
        "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "FPN2MLPFeatureExtractor",
        "MODEL.ROI_BOX_HEAD.PREDICTOR": "FPNPredictor",
        "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16,
        "MODEL.RPN.ANCHOR_SIZES": (8, 16, 32, 64, 128),
        "MODEL.RPN.STRADDLE_THRESH": -1,
    }
    batch = random_scenes(2, 64, 64, TargetNeeds(num_classes=81), 0)
    sides = [from_config(cfg_of({**changes, **more}), "detector", "a detector")
             for more in ({}, {}, {"MODEL.RPN.FG_IOU_THRESHOLD": 0.5})]  # fmt: skip
    same = compare_sides(sides[0], sides[1], batch)
    assert same.parting is None
    assert {"loss: loss_classifier", "loss: loss_rpn_box_reg"} <= {row.place.name for row in same.rows}
    assert compare_sides(sides[0], sides[2], batch).parting.place.name.startswith("loss: ")


BATCH_NORM = {
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.STEM_FUNC": "StemWithBatchNorm",
    "MODEL.RESNETS.TRANS_FUNC": "BottleneckWithBatchNorm",
}
FROZEN_FPN = {
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 256,
    "MODEL.FROZEN_BN.EPSILON": 1e-5,
}


@pytest.mark.parametrize(
    ("body", "other", "options"),
    [
        ("R-18", "torchvision:resnet18", BATCH_NORM),
        pytest.param("R-50", "torchvision:resnet50", BATCH_NORM, marks=pytest.mark.slow),
        pytest.param("R-50-C5", "torchvision:resnet50", BATCH_NORM, marks=pytest.mark.slow),
        pytest.param("R-50", "timm:resnet50", BATCH_NORM, marks=pytest.mark.slow),
        pytest.param("TResNet-M", "timm:tresnet_m", {}, marks=pytest.mark.slow),
        pytest.param("R-50-FPN", "torchvision:resnet50-FPN", FROZEN_FPN, marks=pytest.mark.slow),
    ],
)
def test_ours_is_theirs(body, other, options):
    cfg = load_cfg(
        None, [part for pair in options.items() for part in pair] + ["MODEL.BACKBONE.CONV_BODY", body]
    )
    first = from_config(cfg, "backbone", body)
    enliven_norms(first.model, 0)
    second = named(other, cfg, "backbone")
    comparison = compare_sides(first, second, random_images(2, 64, 64, 0))
    assert comparison.parting is None
    assert comparison.pairing.only_first == ()
    assert set(comparison.pairing.only_second) <= {"fc.weight", "fc.bias", "head.fc.weight", "head.fc.bias"}
    outputs = {row.place.name for row in comparison.rows if row.place.phase == "forward"}
    layers = {name.rpartition(".")[0] for name in comparison.pairing.tensors}
    assert layers <= outputs
