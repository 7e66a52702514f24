"""The way from images to a report and to a loss, gone once with a few images before a run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import numpy as np
from torch import nn

from convbody.data.sampler import Draw
from convbody.data.unread import Unread, first_readable, skips_unread
from convbody.detection.data import CocoDataset
from convbody.detection.data.loader import Batch, TrainDataset, collate
from convbody.detection.data.transforms import short_sides, train_transforms
from convbody.detection.evaluation.inference import detect
from convbody.detection.evaluation.result import EvaluationResult
from convbody.detection.evaluation.run import score_detections, tasks_of
from convbody.detection.model import Detector
from convbody.detection.report import write_report
from convbody.training.distributed import world_size
from convbody.training.preflight import temporary_folder
from convbody.training.step import autocast_dtype
from registry import Config, ConvbodyError

#: Images times classes that pycocotools scores in a few seconds.
_SCORED_CELLS = 400_000
#: Sides, in pixels, of images with several places on the coarsest feature map, at stride 128.
_LARGE = 256
#: What torchvision calls the least score of a detection that is kept, in every kind of detector.
_THRESHOLD = "score_thresh"


def rehearse_evaluation(
    cfg: Config, model: Detector, name: str, dataset: CocoDataset, evaluator: str
) -> None:
    """Detects objects in two images, whatever their scores, scores them, and writes results and report.

    They are scored once more among all images, or the first ones of a very large data set, so that all its
    annotations have been through the scoring.
    """
    with any_score(model):
        found = detect(
            model,
            dataset,
            two_images(dataset),
            batch_size=2,
            dtype=autocast_dtype(cfg),
            mask_threshold=cfg.MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS_THRESHOLD,
            unread=Unread() if skips_unread(cfg) else None,
        )
    if not found:
        return  # damaged images, which the log has named
    records = [record for index in sorted(found) for record in found[index][1]]
    many = _SCORED_CELLS // max(1, len(dataset.categories))
    for indices in (sorted({*found, *range(min(many, len(dataset)))}), sorted(found)):
        result, _ = score_detections(dataset, indices, records, tasks_of(cfg), name, 0.0, evaluator)
    with temporary_folder(Path(cfg.OUTPUT_DIR)) as folder:
        result.save(folder)
        if EvaluationResult.load(folder) != result:
            raise ConvbodyError(f"the results of {name!r} are others when they are read again")
        write_report(folder, cfg, {name: result}, {name: dataset})


def two_images(dataset: CocoDataset) -> list[int]:
    """The first image with annotations and the first without, or the first two."""
    annotated = np.diff(dataset.records.starts) > 0
    firsts = {int(annotated.argmax()), int(annotated.argmin())}
    return sorted(firsts if len(firsts) > 1 else set(range(min(2, len(dataset)))))


def trial_batch(cfg: Config, dataset: TrainDataset) -> Batch:
    """The two smallest training images at their smallest; one where it is large, or alone in a batch.

    Raises:
        DataError: one of them cannot be read.
    """
    smallest = cfg.clone()
    smallest.INPUT.MIN_SIZE_TRAIN = (min(short_sides(cfg)),)
    smallest.INPUT.MIN_SIZE_RANGE_TRAIN = (-1, -1)
    short, longest = smallest.INPUT.MIN_SIZE_TRAIN[0], cfg.INPUT.MAX_SIZE_TRAIN
    extents = dataset.extents()
    scale = np.minimum(short / extents.min(axis=1), longest / extents.max(axis=1))
    trial = copy.copy(dataset)
    trial.transforms = train_transforms(smallest, dataset.flip_order)
    order = (extents.prod(axis=1) * scale**2).argsort(kind="stable").tolist()
    samples = (trial[Draw(index, cfg.SEED)] for index in cycle(order))
    # A second image takes as long again, and matters where a norm could get a single value of one alone.
    shortest = extents[order[0]].min() * scale[order[0]]
    count = 1 if shortest >= _LARGE else min(2, cfg.SOLVER.IMS_PER_BATCH // world_size())
    return collate(first_readable(cfg, samples, count))


@contextmanager
def any_score(model: nn.Module) -> Iterator[None]:
    """While entered, detections of any score are kept: those of an untrained detector are all low."""
    held = [(each, getattr(each, _THRESHOLD)) for each in model.modules() if hasattr(each, _THRESHOLD)]
    try:
        for module, _ in held:
            setattr(module, _THRESHOLD, -1.0)
        yield
    finally:
        for module, threshold in held:
            setattr(module, _THRESHOLD, threshold)
