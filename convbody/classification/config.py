"""Defaults of the keys that only classification reads."""

from __future__ import annotations

from typing import Any

from registry import Config, config_section


@config_section("MODEL.CLASSIFIER")
def classifier_defaults() -> dict[str, Any]:
    """The linear layer behind the body, and its loss."""
    return {
        # Classes; there is no background.
        "NUM_CLASSES": 1000,
        "LABEL_SMOOTHING": {
            # Probability that the target takes from the class of the image; 0 is off.
            "MASS": 0.0,
            # Who shares it: "all" classes alike, its own too (torch), or the "others" (older recipes).
            "OVER": "all",
        },
    }


@config_section("INPUT.CLASSIFICATION")
def input_defaults() -> dict[str, Any]:
    """How an image becomes a square; flips, jitter and pixel statistics are those of INPUT."""
    return {
        # Side of the square, pixels.
        "SIZE_TRAIN": 224,
        "SIZE_TEST": 224,
        # Testing: the short side before the central square is cut out, pixels.
        "RESIZE_TEST": 256,
        # Training: a random part of the image, of these shares of its area and width over height, resized.
        # Without it, the central square, padded by PAD on each side, of which a random part is cut out.
        "RANDOM_RESIZED_CROP": {"ENABLED": True, "SCALE": (0.08, 1.0), "RATIO": (3 / 4, 4 / 3)},
        "PAD": 0,
        # RandAugment (Cubuk et al. 2019): operations on each image, and their strength, 0 to 30.
        "RAND_AUGMENT": {"ENABLED": False, "NUM_OPS": 2, "MAGNITUDE": 9},
        # Mixup (Zhang et al. 2017): pairs of images are mixed by a share from Beta(alpha, alpha); 0 is off.
        "MIXUP_ALPHA": 0.0,
    }


@config_section("DATASETS", paths=("CLASSIFICATION_CATALOG.*.root",))
def datasets_defaults() -> dict[str, Any]:
    """Data sets of labelled images, named in DATASETS.TRAIN and TEST."""
    return {
        # More of them: {name: {layout: folder | cifar10 | cifar100 | mnist | fashion_mnist, root: FOLDER,
        # split: train | test}}, relative to the data sets' root. A folder has one folder for each class, and
        # no split.
        "CLASSIFICATION_CATALOG": Config(new_allowed=True),
    }
