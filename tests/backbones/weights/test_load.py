from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from backbones import build_backbone
from backbones.weights import LoadReport, load_weights
from registry import ConfigError, load_cfg

NARROW = (
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    4,
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    8,
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    4,
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS",
    8,
)


def build(name="R-50-FPN", *opts):
    return build_backbone(load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", name, *NARROW, *opts]))


class Detector(nn.Module):
    def __init__(self, name="R-50-FPN"):
        super().__init__()
        self.backbone = build(name)
        self.head = nn.Linear(3, 3)


def same(module, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    )


def renamed(state, rename):
    return {rename(key): value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda d: d.state_dict(),
        lambda d: {"model": d.state_dict(), "iteration": 7},
        lambda d: {"state_dict": renamed(d.state_dict(), lambda k: f"module.{k}")},
        lambda d: renamed(d.state_dict(), lambda k: f"module.module.{k}"),
        lambda d: d.backbone.state_dict(),
        lambda d: d.backbone.body.state_dict(),
    ],
    ids=["detector", "checkpoint", "parallel", "parallel twice", "backbone", "body"],
)
@pytest.mark.parametrize("into", [build, Detector])
def test_what_a_file_may_hold(tmp_path, wrap, into):
    source, target = Detector(), into()
    torch.save(wrap(source), tmp_path / "weights.pth")
    report = load_weights(target, tmp_path / "weights.pth")
    backbone = getattr(target, "backbone", target)
    assert same(backbone.body, source.backbone.body)
    assert len(report.loaded) >= len(backbone.body.state_dict())
    assert report.wrong_shape == ()


class Wrapped(nn.Module):
    """A module whose own names begin as those of wrappers do."""

    def __init__(self, module):
        super().__init__()
        self.model = module


@pytest.mark.parametrize("make", [build, Detector], ids=["backbone", "detector"])
@pytest.mark.parametrize(
    ("source_wrap", "target_wrap"),
    [
        (Wrapped, lambda module: module),
        (lambda module: module, Wrapped),
        (Wrapped, Wrapped),
        (torch.optim.swa_utils.AveragedModel, lambda module: module),
        (lambda module: torch.compile(module), nn.DataParallel),
    ],
    ids=["into a bare one", "from a bare one", "of its own", "an average", "compiled into parallel"],
)
def test_names_are_compared_without_wrappers_on_either_side(tmp_path, make, source_wrap, target_wrap):
    source, target = make(), make()
    torch.save(source_wrap(source).state_dict(), tmp_path / "weights.pth")
    report = load_weights(target_wrap(target), tmp_path / "weights.pth")
    assert report.missing == report.wrong_shape == () and same(target, source)


def test_an_average_is_taken_by_name(tmp_path):
    source, average, target = build(), build(), build()
    torch.save({"model": source.state_dict(), "ema": average.state_dict()}, tmp_path / "weights.pth")
    load_weights(target, f"{tmp_path}/weights.pth#ema")
    assert same(target, average)
    load_weights(target, f"{tmp_path}/weights.pth")
    assert same(target, source)


def test_safetensors(tmp_path):
    source, target = build(), build()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    assert load_weights(target, tmp_path / "weights.safetensors").missing == ()
    assert same(target, source)


def test_torchvision_names(tmp_path):
    source = build("R-50")
    names = renamed(source.body.state_dict(), lambda k: f"module.{k.removeprefix('stem.')}")
    torch.save({**names, "module.fc.weight": torch.zeros(3, 3)}, tmp_path / "resnet50.pth")
    target = build("R-50-FPN")
    report = load_weights(target, tmp_path / "resnet50.pth")
    assert same(target.body, source.body)
    assert report.unexpected == ("fc.weight",)
    assert {name.split(".")[0] for name in report.missing} == {"fpn"}


def test_timm_names(tmp_path):
    import timm

    source = timm.create_model("convnext_atto")
    torch.save(source.state_dict(), tmp_path / "convnext.pth")
    target = build("timm/convnext_atto-FPN")
    report = load_weights(target, tmp_path / "convnext.pth")
    assert torch.equal(target.body.net.stages_2.blocks[0].gamma, source.stages[2].blocks[0].gamma)
    assert not [name for name in report.missing if name.startswith("body")]


def test_the_report_groups_what_did_not_fit(tmp_path):
    source = build("R-50-FPN")
    state = source.state_dict()
    state["fpn.fpn_inner1.weight"] = torch.zeros(1, 2, 3)
    state["head.weight"] = torch.zeros(3)
    del state["fpn.fpn_layer2.bias"]
    torch.save(state, tmp_path / "weights.pth")
    target = build("R-50-FPN")
    kept = target.fpn.fpn_inner1.weight.clone()
    report = load_weights(target, tmp_path / "weights.pth")
    assert report.missing == ("fpn.fpn_layer2.bias",)
    assert report.unexpected == ("head.weight",)
    assert report.wrong_shape == (("fpn.fpn_inner1.weight", (1, 2, 3), (8, 8, 1, 1)),)
    assert torch.equal(target.fpn.fpn_inner1.weight, kept)
    assert "fpn.fpn_inner1 (2)" in str(
        LoadReport("", "", (), tuple(source.fpn.state_dict(prefix="fpn.")), (), ())
    )
    for words in (
        "missing: fpn.fpn_layer2.bias",
        "unexpected: head.weight",
        "wrong shape: fpn.fpn_inner1.weight",
    ):
        assert words in str(report)


def test_names_match_whole_or_not_at_all(tmp_path):
    """A tensor called ``conv1.weight`` at the end of another name is another tensor."""
    state = renamed(build("R-50").body.state_dict(), lambda k: f"x{k}")
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="fits 0 of the 265 tensors"):
        load_weights(build("R-50"), tmp_path / "weights.pth")


@pytest.mark.parametrize(("missing", "enough"), [(0.05, True), (0.15, False)])
def test_nine_tenths_of_the_body_are_needed(tmp_path, missing, enough):
    source, target = build("R-50"), build("R-50")
    state = dict(list(source.state_dict().items())[int(missing * 265) :])
    torch.save(state, tmp_path / "weights.pth")
    before = {k: v.clone() for k, v in target.state_dict().items()}
    if enough:
        load_weights(target, tmp_path / "weights.pth")
    else:
        with pytest.raises(ConfigError, match=r"fewer than 90%: .* missing: body"):
            load_weights(target, tmp_path / "weights.pth")
        assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_misuse_names_the_key_and_where_it_was_set(tmp_path):
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "text.safetensors").write_text("not weights")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(nn.Linear(1, 1), tmp_path / "module.pth")
    for path, message in {
        "s3://bucket/r50.pth": "neither a path nor one of catalog://",
        str(tmp_path / "absent.pth"): "no such weight file",
        __file__: "read from .pth",
        str(tmp_path / "text.pth"): "cannot be read",
        str(tmp_path / "text.safetensors"): "cannot be read",
        str(tmp_path / "module.pth"): "cannot be read",
        str(tmp_path / "list.pth"): "no named tensors",
    }.items():
        with pytest.raises(ConfigError, match=message) as caught:
            load_weights(build("R-50"), path, load_cfg(None, ["MODEL.WEIGHT", path]))
        assert "MODEL.WEIGHT" in str(caught.value) and "set on the command line" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("neck", ["", "-C4", "-FPN"])
def test_a_deeper_file_is_refused_though_all_of_the_body_is_in_it(tmp_path, neck):
    torch.save(build("R-101" + neck).state_dict(), tmp_path / "R-101.pth")
    with pytest.raises(ConfigError, match=r"deeper body .* no body.layer3.6 \(15\), .*CONV_BODY") as caught:
        load_weights(build("R-50" + neck), tmp_path / "R-101.pth")
    assert "\n" not in str(caught.value)


def test_stages_that_a_body_does_not_have_are_only_reported(tmp_path):
    torch.save(build("R-50").state_dict(), tmp_path / "R-50.pth")
    report = load_weights(build("R-50-C4"), tmp_path / "R-50.pth")
    assert report.missing == () and {name.split(".")[1] for name in report.unexpected} == {"layer4"}


TRAINABLE = (
    "MODEL.RESNETS.STEM_FUNC",
    "StemWithBatchNorm",
    "MODEL.RESNETS.TRANS_FUNC",
    "BottleneckWithBatchNorm",
)


def test_counters_of_batches_are_loaded_and_never_counted(tmp_path):
    source, target, frozen = build("R-50", *TRAINABLE), build("R-50", *TRAINABLE), build("R-50")
    source.body.layer2[0].bn1.num_batches_tracked.fill_(7)
    torch.save(source.state_dict(), tmp_path / "trained.pth")
    torch.save(frozen.state_dict(), tmp_path / "frozen.pth")
    with_counters = load_weights(target, tmp_path / "trained.pth")
    assert target.body.layer2[0].bn1.num_batches_tracked == 7
    without = load_weights(target, tmp_path / "frozen.pth")
    into_frozen = load_weights(frozen, tmp_path / "trained.pth")
    assert with_counters == replace(without, file=with_counters.file) == into_frozen
    assert (with_counters.missing, with_counters.unexpected, len(with_counters.loaded)) == ((), (), 265)
    assert target.body.layer2[0].bn1.num_batches_tracked == 7
