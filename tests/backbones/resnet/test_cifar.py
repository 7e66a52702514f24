"""The small ResNets: as many parameters as published, for any images, norm and neck."""

import pytest
import torch
from torch import nn

from backbones import Classifier, assert_backbone_contract
from registry import ConvbodyError

# He et al. 2015, table 6, in millions, of networks whose shortcuts have no parameters; with 10 classes.
PUBLISHED = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}
PARAMETERS = {20: 272_474, 32: 466_906, 44: 661_338, 56: 855_770, 110: 1_730_714}
PROJECTIONS = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64  # two 1x1 convolutions and the norms behind them
NORM, CHANNELS, STRIDE = (f"MODEL.CIFAR_RESNETS.{key}" for key in ("NORM", "IN_CHANNELS", "STEM_STRIDE"))


@pytest.mark.parametrize("layers", PUBLISHED)
def test_layers_and_parameters_are_the_published_ones(published, layers):
    model = Classifier(published.build(f"R-{layers}-CIFAR"), 10)
    weighted = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    projections = [m for m in weighted if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert len(weighted) - len(projections) == layers
    assert [(m.in_channels, m.out_channels) for m in projections] == [(16, 32), (32, 64)]
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == PARAMETERS[layers]
    digits = 1 if layers == 110 else 2
    assert round((count - PROJECTIONS) / 1e6, digits) == PUBLISHED[layers]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_classifier_of_images_with_any_number_of_channels(published, channels):
    model = Classifier(published.build("R-20-CIFAR", CHANNELS, channels), 7)
    images = torch.rand(2, channels, 28, 30)
    assert model(images).shape == (2, 7)
    torch.testing.assert_close(model.predict(images).sum(1), torch.ones(2))
    model(images, torch.tensor([0, 6])).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_features_halve_where_channels_double(published):
    features = published.build("R-20-CIFAR")(torch.rand(1, 3, 33, 32))
    assert [tuple(f.shape[1:]) for f in features] == [(16, 33, 32), (32, 17, 16), (64, 9, 8)]


def test_convolutions_start_with_msra_fill(published):
    torch.manual_seed(0)
    body = published.build("R-56-CIFAR").body
    conv = body.layer3[1].conv1
    assert conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert body.layer2[0].downsample[0].weight.std().item() == pytest.approx((2 / 32) ** 0.5, rel=0.1)
    # Normal, not uniform: some values lie beyond the sqrt(3) deviations of a uniform distribution.
    assert conv.weight.abs().max() > 2.5 * conv.weight.std()


@pytest.mark.parametrize(("norm", "kind"), [("BN", nn.BatchNorm2d), ("SyncBN", nn.BatchNorm2d)])
def test_epsilon_is_that_of_the_config(published, norm, kind):
    opts = (NORM, norm, "MODEL.CIFAR_RESNETS.BN_EPSILON", 1e-3)
    found = {m.eps for m in published.build("R-20-CIFAR", *opts).modules() if isinstance(m, kind)}
    assert found == {1e-3}


def test_without_norm_convolutions_have_biases(published):
    model = published.build("R-20-CIFAR", NORM, "").train()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    image = torch.rand(1, 3, 8, 8)
    before = model(image)[0]
    with torch.no_grad():
        model.body.stem.bn1.bias += 1
    assert not torch.equal(model(image)[0], before)
    assert torch.equal(model(image)[0], model.eval()(image)[0])


@pytest.mark.parametrize("neck", ["FPN", "FPN-RETINANET", "C4", "C5"])
def test_strides_for_every_neck(neck):
    assert_backbone_contract(f"R-20-CIFAR-{neck}", opts=(STRIDE, 4), data_parallel=False)


def test_the_published_strides_keep_the_contract():
    assert_backbone_contract(
        "R-20-CIFAR", opts=(NORM, "GN", "MODEL.GROUP_NORM.NUM_GROUPS", 8), data_parallel=False
    )


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        ((CHANNELS, 0), ["at least 1", CHANNELS]),
        ((STRIDE, 3), ["1, 2 or 4", STRIDE]),
        ((NORM, "BatchNorm"), ["BatchNorm", NORM]),
    ],
)
def test_a_mistake_names_the_key(published, opts, words):
    with pytest.raises(ConvbodyError) as caught:
        published.build("R-20-CIFAR", *opts)
    assert all(word in str(caught.value) for word in words)
