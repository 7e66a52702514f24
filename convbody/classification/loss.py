"""The loss of a classifier: cross-entropy with smoothed and mixed labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from registry import Config, ConfigError

_KEY = "MODEL.CLASSIFIER.LABEL_SMOOTHING"


def target_maker(cfg: Config) -> Callable[[Tensor], Tensor]:
    """The function from labels (N,) int64 to targets (N, NUM_CLASSES) float32, as LABEL_SMOOTHING says.

    With the mass m, K classes and OVER "all", the class of an image has 1 - m + m / K and each other m / K
    (torch; Szegedy et al. 2015, section 7); with "others", 1 - m and m / (K - 1).

    Raises:
        ConfigError: a mass outside [0, 1), another convention, or one class alone.
    """
    classes, smoothing = cfg.MODEL.CLASSIFIER.NUM_CLASSES, cfg.MODEL.CLASSIFIER.LABEL_SMOOTHING
    if classes < 2:
        raise ConfigError("at least 2 classes are needed", "MODEL.CLASSIFIER.NUM_CLASSES", cfg)
    if not 0 <= smoothing.MASS < 1:
        raise ConfigError("must be at least 0 and below 1", f"{_KEY}.MASS", cfg)
    if smoothing.OVER not in ("all", "others"):
        raise ConfigError('must be "all" or "others"', f"{_KEY}.OVER", cfg)
    other = smoothing.MASS / (classes if smoothing.OVER == "all" else classes - 1)
    own = 1 - other * (classes - 1)

    def make(labels: Tensor) -> Tensor:
        targets = torch.full((len(labels), classes), other, device=labels.device)
        return targets.scatter_(1, labels[:, None], own)

    return make


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over images of - sum_k target_k log softmax(logits)_k, in float32; both are (N, classes)."""
    return F.cross_entropy(logits.float(), targets)


def mixup(images: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Each image (N, C, H, W) and target (N, classes) mixed with another of the batch (Zhang et al. 2017).

    x' = s x + (1 - s) x[permutation], and the same for targets, with one s from Beta(alpha, alpha) for the
    batch. Draws from torch's generator of the CPU.
    """
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(images)).to(images.device)
    return images.lerp(images[order], 1 - share), targets.lerp(targets[order], 1 - share)
