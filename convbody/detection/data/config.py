"""Defaults of the keys that the data pipeline reads: INPUT, DATASETS and DATALOADER."""

from __future__ import annotations

from typing import Any

from registry import Config, config_section
from registry.allowed import above, at_least, between, each


@config_section(
    "INPUT",
    allowed={
        "MIN_SIZE_RANGE_TRAIN": each(at_least(-1), 2),
        "MIN_SIZE_TEST": at_least(0),
        "MAX_PIXELS": at_least(0),
        "PIXEL_MEAN": each(between(-1e6, 1e6), 1, 3),
        "PIXEL_STD": each(above(0.0), 1, 3),
        "BRIGHTNESS": at_least(0.0),
        "CONTRAST": at_least(0.0),
        "SATURATION": at_least(0.0),
        "HORIZONTAL_FLIP_PROB_TRAIN": between(0.0, 1.0),
        "VERTICAL_FLIP_PROB_TRAIN": between(0.0, 1.0),
    },
)
def input_defaults() -> dict[str, Any]:
    """How an image becomes the tensor that the network sees."""
    return {
        # Short side of a training image, pixels; each image draws one of these.
        "MIN_SIZE_TRAIN": (800,),
        # (low, high): draw the short side from this range, both ends included, instead; -1 is off.
        "MIN_SIZE_RANGE_TRAIN": (-1, -1),
        # Longest side of a training image, pixels; wins over the short side.
        "MAX_SIZE_TRAIN": 1333,
        # The same two for testing; a short side of 0 leaves images in their own size.
        "MIN_SIZE_TEST": 800,
        "MAX_SIZE_TEST": 1333,
        # Images of more pixels are refused: small files can swell to gigabytes; 0: no limit.
        "MAX_PIXELS": 178_956_970,
        # Per channel, in the order and range that TO_BGR255 gives: BGR 0-255, or RGB 0-1.
        "PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
        "PIXEL_STD": [1.0, 1.0, 1.0],
        # True: the network is fed BGR in 0-255 (weights from Caffe2); False: RGB in 0-1 (torchvision, timm).
        "TO_BGR255": True,
        # Colour jitter: the largest relative change (hue: largest turn, at most 0.5); 0 is off.
        "BRIGHTNESS": 0.0,
        "CONTRAST": 0.0,
        "SATURATION": 0.0,
        "HUE": 0.0,
        # Order of the jitters, e.g. ("brightness", "contrast", "saturation", "hue"); empty: each image
        # draws one.
        "JITTER_ORDER": (),
        # Probabilities, 0 to 1.
        "HORIZONTAL_FLIP_PROB_TRAIN": 0.5,
        "VERTICAL_FLIP_PROB_TRAIN": 0.0,
    }


@config_section("DATASETS", paths=("CATALOG.*.image_dir", "CATALOG.*.ann_file"))
def datasets_defaults() -> dict[str, Any]:
    """Which data sets, where they lie, and how they are checked."""
    return {
        # Names from the catalog; several training sets are joined, each test set is evaluated by itself.
        "TRAIN": (),
        "TEST": (),
        # More data sets: {name: {image_dir: FOLDER, ann_file: COCO_JSON}}, relative to the data sets' root.
        "CATALOG": Config(new_allowed=True),
        # Label of a category of the training set: "consecutive", its place in the order of ids from 1 on;
        # "category_id", its id, as torchvision's published detectors have it (COCO's 80 categories have ids
        # up to 90). In other data sets a category has the label of the one of the same name.
        "LABELS": "consecutive",
        # Mistakes found by the check, and images that prove damaged when they are loaded: "fail" stops with a
        # report, "skip" leaves out what is wrong and says so.
        "ON_ERROR": "fail",
        # What the check reads of every image: "quick" header and end of file, "full" all pixels, "none".
        "CHECK_IMAGES": "quick",
        # Whether images are turned by their EXIF orientation: "apply", "ignore" (as COCO was annotated), or
        # "auto": where only the turned size is the one that the annotations say. Prediction under "auto" does
        # what training did; where that is not known, images are turned.
        "EXIF": "auto",
        # Train on images without objects, too.
        "KEEP_EMPTY": False,
        # Keypoint training leaves out images with fewer labelled keypoints than this, all persons together.
        "MIN_KEYPOINTS": 10,
    }


@config_section("DATALOADER", allowed={"NUM_WORKERS": at_least(0), "SIZE_DIVISIBILITY": at_least(0)})
def dataloader_defaults() -> dict[str, Any]:
    """How batches are put together."""
    return {
        # Processes that read images, per training process; 0 reads in the training process itself.
        "NUM_WORKERS": 4,
        # Pad batches to a multiple of this many pixels; 0: what the backbone asks for.
        "SIZE_DIVISIBILITY": 0,
        # A batch holds only landscape or only portrait images, so that little of it is padding.
        "ASPECT_RATIO_GROUPING": True,
    }
