"""``build_classifier``: any backbone, pooling and a linear layer."""

from __future__ import annotations

import torch
from torch import Tensor

from backbones import Backbone, Classifier, build_backbone
from backbones.build import CONV_BODY
from registry import Config, ConfigError
from registry.errors import in_one_line

_CHANNELS = {1: "grey", 3: "colour"}


def build_classifier(cfg: Config) -> Classifier:
    """The body of MODEL.BACKBONE.CONV_BODY with MODEL.CLASSIFIER.NUM_CLASSES logits, of random weights.

    Raises:
        ConfigError: too few classes, a backbone that is none of ours, or one that does not take images of as
            many channels as INPUT.PIXEL_MEAN has values.
    """
    if cfg.MODEL.CLASSIFIER.NUM_CLASSES < 2:
        raise ConfigError("at least 2 classes are needed", "MODEL.CLASSIFIER.NUM_CLASSES", cfg)
    backbone = build_backbone(cfg)
    if not isinstance(backbone, Backbone):
        raise ConfigError("a classifier needs a backbone that says its channels (Backbone)", CONV_BODY, cfg)
    model = Classifier(backbone, cfg.MODEL.CLASSIFIER.NUM_CLASSES)
    _check_input(model, cfg)
    return model


def image_channels(cfg: Config) -> int:
    """Channels of the images: as many as INPUT.PIXEL_MEAN has values, 1 for grey or 3.

    Raises:
        ConfigError: another number, or not as many in PIXEL_STD.
    """
    channels = len(cfg.INPUT.PIXEL_MEAN)
    if channels not in _CHANNELS:
        raise ConfigError("images are read with 1 channel or 3: give 1 mean or 3", "INPUT.PIXEL_MEAN", cfg)
    if len(cfg.INPUT.PIXEL_STD) != channels:
        raise ConfigError(f"{channels} as in PIXEL_MEAN are needed", "INPUT.PIXEL_STD", cfg)
    return channels


def network_input(images: Tensor, cfg: Config) -> Tensor:
    """uint8 images (N, C, H, W), grey or RGB -> normalised float32, RGB of 0 to 1 or BGR of 0 to 255."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=images.device)[:, None, None]
        for values in (cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
    )
    floats = images.float()
    floats = floats.flip(1) if cfg.INPUT.TO_BGR255 else floats / 255
    return (floats - mean) / std


@torch.no_grad()
def _check_input(model: Classifier, cfg: Config) -> None:
    channels, side = image_channels(cfg), min(cfg.INPUT.CLASSIFICATION.SIZE_TRAIN, 64)
    try:
        model.eval()(torch.zeros(1, channels, side, side))
    except RuntimeError as error:
        raise ConfigError(
            f"{cfg.MODEL.BACKBONE.CONV_BODY} does not take {_CHANNELS[channels]} images, which {channels} "
            f"mean(s) ask for ({in_one_line(error)})",
            "INPUT.PIXEL_MEAN",
            cfg,
        ) from error
    model.train()
