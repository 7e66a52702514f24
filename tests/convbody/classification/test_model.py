import pytest
import torch

from convbody.classification import build_classifier
from convbody.classification.model import network_input
from convbody.detection.transform import DetectionTransform
from registry import ConfigError, load_cfg


def test_a_body_with_a_linear_layer(cls_cfg):
    model = build_classifier(cls_cfg({"MODEL.CLASSIFIER.NUM_CLASSES": 7}))
    assert model.training
    assert model(torch.rand(2, 1, 9, 11)).shape == (2, 7)


def test_the_input_is_what_a_detector_of_the_same_config_sees():
    """So that weights trained here expect there what they were trained with."""
    image = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    for bgr in (True, False):
        cfg = load_cfg(
            None,
            [
                *(
                    "INPUT.TO_BGR255",
                    bgr,
                    "INPUT.PIXEL_MEAN",
                    [0.1, 0.2, 0.3],
                    "INPUT.PIXEL_STD",
                    [1.0, 2.0, 3.0],
                ),
                *("INPUT.MIN_SIZE_TEST", 32, "INPUT.MAX_SIZE_TEST", 32),
            ],
        )
        there = DetectionTransform(cfg, 32).normalize(image[0].float() / 255)
        torch.testing.assert_close(network_input(image, cfg)[0], there)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"INPUT.PIXEL_MEAN": [0.5] * 3, "INPUT.PIXEL_STD": [0.5] * 3},
            ["R-20-CIFAR", "colour", "INPUT.PIXEL_MEAN"],
        ),
        ({"INPUT.PIXEL_MEAN": [0.5, 0.5]}, ["1 or 3 numbers", "INPUT.PIXEL_MEAN"]),
        ({"INPUT.PIXEL_STD": [0.5] * 3}, ["1 as in PIXEL_MEAN", "INPUT.PIXEL_STD"]),
        ({"MODEL.CLASSIFIER.NUM_CLASSES": 1}, ["MODEL.CLASSIFIER.NUM_CLASSES"]),
    ],
)
def test_a_mistake_names_the_key(cls_cfg, changes, words):
    with pytest.raises(ConfigError) as caught:
        build_classifier(cls_cfg(changes))
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
