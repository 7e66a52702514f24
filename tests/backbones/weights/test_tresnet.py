"""Official and timm's TResNet files: read, written, and the numbers that their own code gives."""

import hashlib
import json
import re
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backbones import Classifier, build_backbone
from backbones.build import BodyAndNeck
from backbones.tresnet.body import TResNet, Variant
from backbones.weights import load_weights
from backbones.weights.rules import Lineage
from backbones.weights.tresnet import OFFICIAL, TIMM
from backbones.weights.write import convert
from registry import load_cfg

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tresnet.json").read_text())["models"]
VARIANTS = [Variant((2, 2, 2, 1), width=8), Variant((1, 2, 2, 1), width=8, basic_stages=0)]


def tiny(variant: Variant, seed: int = 0) -> Classifier:
    """A narrow classifier with random weights of either sign and random statistics."""
    torch.manual_seed(seed)
    body = TResNet(variant, load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "TResNet-M"]))
    model = Classifier(BodyAndNeck(body, None), 7).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(".1.weight"):
            tensor.uniform_(0.5, 1).mul_(torch.where(torch.rand_like(tensor) < 0.5, -1, 1))
        elif name.endswith("running_mean"):
            tensor.normal_()
    return model


def written(lineage: Lineage, model: nn.Module) -> dict[str, Tensor]:
    """Every tensor of a classifier in the lineage's names."""
    return convert(model.state_dict(), lineage.name, source="convbody").state


def filled(shapes: dict[str, torch.Size], fill: dict) -> dict[str, Tensor]:
    """Weights as the golden values were computed with, drawn by their official names."""
    state = {}
    for name, shape in shapes.items():
        generator = np.random.default_rng(crc32(name.encode()))
        leaf = name.rpartition(".")[2]
        if leaf == "num_batches_tracked":
            state[name] = torch.zeros(shape, dtype=torch.int64)
            continue
        if leaf == "weight" and len(shape) > 1:
            values = generator.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
        elif leaf in ("weight", "running_var"):
            values = generator.uniform(0.5, 1.5, shape)
            if leaf == "weight" and fill.get("signed"):
                values *= np.where(generator.random(shape) < 0.5, -1, 1)
        else:
            values = generator.standard_normal(shape) * 0.1
        values = values.astype(np.float32)
        if re.search(fill["damp_re"], name):
            values *= np.float32(fill["damp"])
        state[name] = torch.from_numpy(values)
    return state


@pytest.mark.slow
@pytest.mark.parametrize("record", [pytest.param(r, id=r["id"]) for r in GOLDEN])
@pytest.mark.parametrize("norm", ["ABN", "FrozenBN"])
def test_published_files_give_the_published_numbers(record, norm, published, tmp_path):
    opts = ["MODEL.BACKBONE.CONV_BODY", "TResNet-M", "MODEL.TRESNETS.NORM"]
    theirs = Classifier(build_backbone(load_cfg(None, [*opts, "ABN"])), 1000)
    assert sum(p.numel() for p in theirs.parameters()) == record["parameters"]
    lineage = OFFICIAL if record["id"].startswith("official") else TIMM
    shapes = {name: tensor.shape for name, tensor in written(lineage, theirs).items()}
    keys = "\n".join(sorted(f"{name} {list(shape)}" for name, shape in shapes.items()))
    assert hashlib.sha256(keys.encode()).hexdigest()[:16] == record["keys"]
    torch.save({"model": filled(shapes, record["fill"])}, tmp_path / "weights.pth")

    model = Classifier(build_backbone(load_cfg(None, [*opts, norm])), 1000).eval()
    report = load_weights(model, tmp_path / "weights.pth")
    assert not report.missing and report.lineage == lineage.name
    with torch.no_grad():
        x = published.image(128, 128)
        published.assert_close([*model.backbone(x), model(x)], record["outputs"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("lineage", [OFFICIAL, TIMM])
def test_what_is_written_reads_back_with_the_same_numbers(lineage, variant, tmp_path):
    model, other = tiny(variant), tiny(variant, seed=1)
    theirs = written(lineage, model)
    if lineage is OFFICIAL:
        theirs["body.layer2.0.conv1.1.op.filt"] = torch.ones(16, 1, 3, 3)
    torch.save(theirs, tmp_path / "weights.pth")
    report = load_weights(other, tmp_path / "weights.pth")
    assert (report.missing, report.unexpected, report.lineage) == ((), (), lineage.name)
    x = torch.rand(2, 3, 64, 75)
    for one, two in zip([*model.backbone(x), model(x)], [*other.backbone(x), other(x)], strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_frozen_norms_are_written_with_the_counters_that_timm_has():
    cfg = load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "TResNet-M", "MODEL.TRESNETS.NORM", "FrozenBN"])
    frozen = Classifier(BodyAndNeck(TResNet(VARIANTS[0], cfg), None), 7)
    for lineage in (OFFICIAL, TIMM):
        assert written(lineage, frozen).keys() == written(lineage, tiny(VARIANTS[0])).keys()


@pytest.mark.parametrize(
    ("width", "name", "change"),
    [
        # Where a blur follows, the official convolution and norm lie one level deeper.
        (0, "body.layer2.0.conv1.0.0.weight", "backbone.body.layer2.0.conv1.0.weight"),
        (0, "body.layer2.0.conv2.0.weight", "backbone.body.layer2.0.conv2.0.weight"),
        (0, "body.layer2.1.conv1.0.weight", "backbone.body.layer2.1.conv1.0.weight"),
        (0, "body.layer3.0.conv2.0.1.bias", "backbone.body.layer3.0.conv2.1.bias"),
        (0, "body.layer3.0.conv1.1.bias", "backbone.body.layer3.0.conv1.1.bias"),
        (1, "body.layer1.0.conv2.0.weight", "backbone.body.layer1.0.conv2.0.weight"),
        (1, "body.layer1.0.downsample.0.0.weight", "backbone.body.layer1.0.downsample.0.0.weight"),
        (1, "body.layer2.0.conv1.0.weight", "backbone.body.layer2.0.conv1.0.weight"),
        (1, "body.layer2.0.conv2.0.0.weight", "backbone.body.layer2.0.conv2.0.weight"),
    ],
)
def test_official_names(width, name, change):
    theirs = written(OFFICIAL, tiny(VARIANTS[width]))
    assert name in theirs
    assert OFFICIAL.to_ours(theirs)[name].name == change


def test_official_scales_are_absolute_values_and_epsilon(tmp_path):
    model, other = tiny(VARIANTS[0]), tiny(VARIANTS[0], seed=1)
    theirs = written(OFFICIAL, model)
    name = "body.layer1.0.conv2.1.weight"
    theirs[name] = torch.tensor([0.5, -0.5, 0.0, -0.0, 1e-5, -1e-5, 2.0, -2.0])
    torch.save(theirs, tmp_path / "weights.pth")
    load_weights(other, tmp_path / "weights.pth")
    wanted = torch.tensor([0.50001, 0.50001, 1e-5, 1e-5, 2e-5, 2e-5, 2.00001, 2.00001])
    torch.testing.assert_close(
        other.backbone.body.layer1[0].conv2[1].weight.detach(), wanted, atol=0, rtol=1e-7
    )


def test_a_body_alone_and_a_body_under_a_neck_take_an_official_file(tmp_path):
    model = tiny(VARIANTS[0])
    theirs = {name: v for name, v in written(OFFICIAL, model).items() if not name.startswith("head.")}
    torch.save({"state_dict": {f"module.{name}": v for name, v in theirs.items()}}, tmp_path / "weights.pth")
    x = torch.rand(1, 3, 64, 64)
    for part in ("backbone", "backbone.body"):
        other = tiny(VARIANTS[0], seed=1).get_submodule(part)
        assert not load_weights(other, tmp_path / "weights.pth").missing
        torch.testing.assert_close(other(x), model.backbone(x), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "timm_name"),
    [("M", "tresnet_m"), ("L", "tresnet_l"), ("XL", "tresnet_xl"), ("L-V2", "tresnet_v2_l")],
)
def test_timm_models_give_their_numbers_here(name, timm_name, tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model(timm_name).eval()
    for key, tensor in theirs.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif key.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif key.endswith("bn.weight"):
            tensor.uniform_(-1, 1).mul_(0.3 if "conv3" in key else 1)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    cfg = load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", f"TResNet-{name}"])
    model = Classifier(build_backbone(cfg), 1000).eval()
    assert not load_weights(model, tmp_path / "weights.pth").missing
    back = written(TIMM, model)
    assert all(torch.equal(value, back[key]) for key, value in theirs.state_dict().items())
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        wanted = theirs.forward_intermediates(x, indices=(1, 2, 3, 4), intermediates_only=True)
        for one, two in zip([*model.backbone(x), model(x)], [*wanted, theirs(x)], strict=True):
            assert two.isfinite().all() and two.std() > 0
            assert (one - two).abs().max() <= 1e-4 * two.std()
