"""From a picture of any size to the square that the network sees, with torchvision's transforms v2."""

from __future__ import annotations

from torch import nn
from torchvision.transforms import v2

from registry import Config, ConfigError

_JITTERS = ("brightness", "contrast", "saturation", "hue")


def train_transforms(cfg: Config) -> nn.Module:
    """Augmentation: uint8 (C, H, W) -> (C, SIZE_TRAIN, SIZE_TRAIN); draws from torch's global generator."""
    options = cfg.INPUT.CLASSIFICATION
    size, crop = _side(cfg, "SIZE_TRAIN"), options.RANDOM_RESIZED_CROP
    steps: list[nn.Module] = []
    if crop.ENABLED:
        steps.append(v2.RandomResizedCrop(size, tuple(crop.SCALE), tuple(crop.RATIO), antialias=True))
    else:
        steps += [v2.Resize(size, antialias=True), v2.CenterCrop(size)]
        if options.PAD:
            steps.append(v2.RandomCrop(size, padding=options.PAD))
    steps.append(v2.RandomHorizontalFlip(cfg.INPUT.HORIZONTAL_FLIP_PROB_TRAIN))
    if cfg.INPUT.VERTICAL_FLIP_PROB_TRAIN:
        steps.append(v2.RandomVerticalFlip(cfg.INPUT.VERTICAL_FLIP_PROB_TRAIN))
    if strengths := _jitter_strengths(cfg):
        steps.append(v2.ColorJitter(**strengths))
    if options.RAND_AUGMENT.ENABLED:
        if not 0 <= options.RAND_AUGMENT.MAGNITUDE <= 30:
            raise ConfigError("must be 0 to 30", "INPUT.CLASSIFICATION.RAND_AUGMENT.MAGNITUDE", cfg)
        steps.append(v2.RandAugment(options.RAND_AUGMENT.NUM_OPS, options.RAND_AUGMENT.MAGNITUDE))
    return v2.Compose(steps)


def eval_transforms(cfg: Config) -> nn.Module:
    """The short side to RESIZE_TEST, then the central square of SIZE_TEST."""
    resize, size = _side(cfg, "RESIZE_TEST"), _side(cfg, "SIZE_TEST")
    if resize < size:
        raise ConfigError(
            f"must be at least SIZE_TEST, {size}, which is cut out of it",
            "INPUT.CLASSIFICATION.RESIZE_TEST",
            cfg,
        )
    return v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(size)])


def _jitter_strengths(cfg: Config) -> dict[str, float]:
    strengths = {name: cfg.INPUT[name.upper()] for name in _JITTERS if cfg.INPUT[name.upper()]}
    for name, strength in strengths.items():
        if not 0 <= strength <= (0.5 if name == "hue" else float("inf")):
            raise ConfigError("no such strength of jitter", f"INPUT.{name.upper()}", cfg)
    return strengths


def _side(cfg: Config, name: str) -> int:
    side = int(cfg.INPUT.CLASSIFICATION[name])
    if side < 1:
        raise ConfigError("a side has at least 1 pixel", f"INPUT.CLASSIFICATION.{name}", cfg)
    return side
