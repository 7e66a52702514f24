"""The run: what detectron2 says of images, data, schedule and testing in another way."""

from __future__ import annotations

from convbody.detection.convert.settings import Settings, Values
from convbody.detection.data.catalog import catalog
from registry import get_cfg

_SCHEDULES = {"WarmupMultiStepLR": "multistep", "WarmupCosineLR": "cosine"}
_DATASETS = {
    "voc_2007_trainval": ("voc_2007_train_cocostyle", "voc_2007_val_cocostyle"),
    "voc_2012_trainval": ("voc_2012_train_cocostyle", "voc_2012_val_cocostyle"),
    "voc_2007_train": ("voc_2007_train_cocostyle",),
    "voc_2007_val": ("voc_2007_val_cocostyle",),
    "voc_2007_test": ("voc_2007_test_cocostyle",),
    "voc_2012_train": ("voc_2012_train_cocostyle",),
    "voc_2012_val": ("voc_2012_val_cocostyle",),
    "cityscapes_fine_instance_seg_train": ("cityscapes_fine_instanceonly_seg_train_cocostyle",),
    "cityscapes_fine_instance_seg_val": ("cityscapes_fine_instanceonly_seg_val_cocostyle",),
}
_TASKS = {"bbox": "box", "segm": "segm", "keypoints": "keypoint", "box_proposals": "box_proposal"}


def colours(settings: Settings) -> Values:
    """PIXEL_MEAN and PIXEL_STD in the range that TO_BGR255 gives: BGR stays in 0-255, RGB becomes 0-1."""
    bgr = settings.choose("INPUT.FORMAT", {"BGR": True, "RGB": False})
    scale = 1.0 if bgr else 255.0
    return {
        "INPUT.TO_BGR255": bgr,
        "INPUT.PIXEL_MEAN": [value / scale for value in settings["MODEL.PIXEL_MEAN"]],
        "INPUT.PIXEL_STD": [value / scale for value in settings["MODEL.PIXEL_STD"]],
    }


def augmentation(settings: Settings) -> Values:
    """Sizes and flips of training images."""
    sizes = settings["INPUT.MIN_SIZE_TRAIN"]
    sizes = [sizes] if isinstance(sizes, int) else list(sizes)
    flip = settings["INPUT.RANDOM_FLIP"]
    if flip not in ("horizontal", "vertical", "none"):
        settings.note("INPUT.RANDOM_FLIP", "horizontal, vertical or none")
    values: Values = {
        "INPUT.HORIZONTAL_FLIP_PROB_TRAIN": 0.5 if flip == "horizontal" else 0.0,
        "INPUT.VERTICAL_FLIP_PROB_TRAIN": 0.5 if flip == "vertical" else 0.0,
    }
    if settings["INPUT.MIN_SIZE_TRAIN_SAMPLING"] == "range":
        return values | {"INPUT.MIN_SIZE_RANGE_TRAIN": [sizes[0], sizes[-1]]}
    return values | {"INPUT.MIN_SIZE_TRAIN": sizes}


def data(settings: Settings) -> Values:
    """Names of data sets; those that are not shipped stay as they are, for DATASETS.CATALOG to say."""
    values, shipped = {}, catalog(get_cfg())
    for key in ("DATASETS.TRAIN", "DATASETS.TEST"):
        values[key] = [name for old in settings[key] for name in _DATASETS.get(old, (old,))]
        missing = [name for name in values[key] if name not in shipped]
        if missing:
            settings.note(key, f"say in DATASETS.CATALOG where to find {', '.join(missing)}")
    return values


def schedule(settings: Settings) -> Values:
    """The learning rate's course, decay of biases and clipping."""
    values = {"SOLVER.SCHEDULE": settings.choose("SOLVER.LR_SCHEDULER_NAME", _SCHEDULES)}
    decay = settings["SOLVER.WEIGHT_DECAY_BIAS"]
    values["SOLVER.WEIGHT_DECAY_BIAS"] = settings["SOLVER.WEIGHT_DECAY"] if decay is None else decay
    if settings["SOLVER.CLIP_GRADIENTS.ENABLED"]:
        key = "SOLVER.CLIP_GRADIENTS.CLIP_TYPE"
        if settings[key] == "norm":
            settings.note(key, "the norm is that of all gradients together, not of each parameter")
        values[key] = settings.choose(key, {"value": "value", "norm": "norm", "full_model": "norm"})
    return values


def testing(settings: Settings) -> Values:
    """Expected results, of percent, and test-time augmentation."""
    names, entries = settings["DATASETS.TEST"], settings["TEST.EXPECTED_RESULTS"]
    values: Values = {}
    if entries and len(names) == 1 and all(task in _TASKS for task, *_ in entries):
        values["TEST.EXPECTED_RESULTS_SIGMA_TOL"] = 1
        values["TEST.EXPECTED_RESULTS"] = [
            [_DATASETS.get(names[0], names)[0], _TASKS[task], metric, wanted / 100, tolerance / 100]
            for task, metric, wanted, tolerance in entries
        ]
    elif entries:
        settings.note(
            "TEST.EXPECTED_RESULTS", "results of boxes, masks, keypoints or proposals on one data set"
        )
    if settings["TEST.AUG.ENABLED"]:
        sizes, first = settings["TEST.AUG.MIN_SIZES"], settings["INPUT.MIN_SIZE_TEST"]
        if first not in sizes:
            settings.note("TEST.AUG.MIN_SIZES", f"images are tested at INPUT.MIN_SIZE_TEST, {first}, too")
        values |= {
            "TEST.BBOX_AUG.ENABLED": True,
            "TEST.BBOX_AUG.SCALES": [size for size in sizes if size != first],
            "TEST.BBOX_AUG.MAX_SIZE": settings["TEST.AUG.MAX_SIZE"],
            "TEST.BBOX_AUG.H_FLIP": settings["TEST.AUG.FLIP"],
            "TEST.BBOX_AUG.SCALE_H_FLIP": settings["TEST.AUG.FLIP"],
        }
    return values
