"""Evaluate a detector on a data set: every process takes a share, every process gets the one result."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from convbody.data.errors import DataError
from convbody.data.unread import Unread, skips_unread
from convbody.detection.data import CocoDataset
from convbody.detection.evaluation.evaluators import choose_evaluator
from convbody.detection.evaluation.inference import detect, features_are_finite
from convbody.detection.evaluation.result import EvaluationResult
from convbody.detection.evaluation.scoring import TaskScores, score
from convbody.detection.evaluation.truth import GroundTruth, Record
from convbody.training.distributed import all_gather_object, on_main, rank, world_size
from convbody.training.findings import told_in_one_line
from convbody.training.finite import require_finite
from convbody.training.rescue import together
from convbody.training.step import autocast_dtype
from registry import Config, ConvbodyError

log = logging.getLogger(__name__)


def evaluate(model: nn.Module, dataset: CocoDataset, cfg: Config, name: str = "test") -> EvaluationResult:
    """Run ``model`` over ``dataset``, called ``name`` in the tables, and score it.

    Called on all ranks: rank r takes images r, r + world size, ..., in batches of its share of
    TEST.IMS_PER_BATCH, and all get the same result, in the order of the data set. Runs under autocast when
    DTYPE is not "float32". What is scored follows from the config: boxes, masks with MODEL.MASK_ON, keypoints
    with MODEL.KEYPOINT_ON; the recall of proposals alone with MODEL.RPN_ONLY. TEST.EVALUATOR says by whom.
    An image that cannot be read counts for nothing where DATASETS.ON_ERROR is "skip".

    Raises:
        ConvbodyError: the weights have diverged, or grown so large that nothing is found, or an image cannot
            be read.
    """
    evaluator = choose_evaluator(cfg)
    unread = Unread() if skips_unread(cfg) else None
    started = time.monotonic()
    bare_model = model.module if isinstance(model, DistributedDataParallel) else model
    require_finite(bare_model)
    with together(), told_in_one_line(f"detecting objects in images of {name!r}"):
        share = detect(
            bare_model,
            dataset,
            range(rank(), len(dataset), world_size()),
            batch_size=max(1, cfg.TEST.IMS_PER_BATCH // world_size()),
            dtype=autocast_dtype(cfg),
            workers=cfg.DATALOADER.NUM_WORKERS,
            mask_threshold=cfg.MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS_THRESHOLD,
            unread=unread,
        )
    found = {index: entry for part in all_gather_object(share) for index, entry in part.items()}
    seconds = time.monotonic() - started
    skipped = unread.report(f"the evaluation of {name}") if unread else []
    if not found:
        raise DataError(f"no image of data set {name!r} could be read")
    if not any(records for _, records in found.values()):
        _explain_nothing(bare_model, autocast_dtype(cfg))

    def scored() -> EvaluationResult:
        records = [record for index in sorted(found) for record in found[index][1]]
        with told_in_one_line(f"scoring what was found in {name!r}"):
            result, scores = score_detections(
                dataset, sorted(found), records, tasks_of(cfg), name, seconds, evaluator
            )
        for task, each in scores.items():
            log.info("%s, %s, scored with %s:\n%s", name, task, each.evaluator, each.summary)
        result = replace(result, skipped=skipped)
        log.info("%s", result.table())
        return result

    return on_main(scored)


def _explain_nothing(model: nn.Module, dtype: torch.dtype) -> None:
    """Raises ConvbodyError where nothing was found because the network computes no numbers."""
    if not features_are_finite(model, dtype):
        raise ConvbodyError(
            f"nothing was found in any image: the feature maps, {str(dtype).removeprefix('torch.')}, hold "
            "NaN or infinity, though all weights are finite; they have grown too large: take an earlier "
            "checkpoint, and train with a lower SOLVER.BASE_LR"
        )


def evaluate_all(
    model: nn.Module, cfg: Config, datasets: Mapping[str, CocoDataset], output_dir: Path | None = None
) -> dict[str, EvaluationResult]:
    """``evaluate`` on each of ``datasets``: name -> result. Called on all ranks.

    With ``output_dir``, the main process writes metrics and detections to ``output_dir/evaluation/<name>/``.
    """
    results = {}
    for name, dataset in datasets.items():
        results[name] = evaluate(model, dataset, cfg, name)
        if output_dir is not None:
            on_main(partial(_save, results[name], evaluation_folder(output_dir, name)))
    return results


def _save(result: EvaluationResult, folder: Path) -> None:
    with told_in_one_line(f"writing the evaluation into {folder}"):
        result.save(folder)


def evaluation_folder(output_dir: Path, name: str) -> Path:
    """Where the evaluation of the data set ``name`` is kept."""
    return output_dir / "evaluation" / name


def flat_metrics(results: Mapping[str, EvaluationResult]) -> dict[str, float]:
    """The metrics of all results in one dict: "bbox/AP" of a single one, "<data set>/bbox/AP" of several."""
    names = named_by_set({name: list(result.metrics) for name, result in results.items()})
    values = (value for result in results.values() for value in result.metrics.values())
    return dict(zip(names, values, strict=True))


def named_by_set(metrics: Mapping[str, Sequence[str]]) -> list[str]:
    """The names that metrics of several data sets have together: with the data set's in front."""
    if len(metrics) == 1:
        return list(next(iter(metrics.values())))
    return [f"{name}/{metric}" for name, found in metrics.items() for metric in found]


def tasks_of(cfg: Config) -> list[str]:
    """What the configured detector is scored on, the boxes first."""
    one_stage = cfg.MODEL.RETINANET_ON or cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN"
    if cfg.MODEL.RPN_ONLY and not one_stage:  # published RetinaNet configs set RPN_ONLY, too
        return ["proposals"]
    return ["bbox"] + ["segm"] * bool(cfg.MODEL.MASK_ON) + ["keypoints"] * bool(cfg.MODEL.KEYPOINT_ON)


def score_detections(
    dataset: CocoDataset,
    indices: Sequence[int],
    records: list[Record],
    tasks: Sequence[str],
    name: str,
    seconds: float,
    evaluator: str,
) -> tuple[EvaluationResult, dict[str, TaskScores]]:
    """The result of ``records``, detections of the images ``indices``, and the scores of each task."""
    truth = GroundTruth(
        images=[dataset.images[index] for index in indices],
        categories=dataset.categories,
        annotations=[annotation for index in indices for annotation in dataset.objects(index)],
    )
    scores = {task: score(truth, records, task, evaluator) for task in tasks}
    first = scores[tasks[0]]
    result = EvaluationResult(
        dataset=name,
        metrics={f"{task}/{key}": value for task, s in scores.items() for key, value in s.metrics.items()},
        per_class=_per_class(truth, scores),
        curves={task: s.curves for task, s in scores.items() if s.curves},
        operating_point=first.operating_point,
        image_f1={str(dataset.original_image(image)): f1 for image, f1 in first.image_f1.items()},
        images=len(indices),
        seconds=round(seconds, 3),
        predictions=[
            {
                **record,
                "image_id": dataset.original_image(record["image_id"]),
                "category_id": dataset.original_category(record["category_id"]),
            }
            for record in records
        ],
    )
    return result, scores


def _per_class(truth: GroundTruth, scores: Mapping[str, TaskScores]) -> list[dict[str, Any]]:
    objects = Counter(annotation.category_id for annotation in truth.annotations if not annotation.iscrowd)
    rows = []
    for position, category in enumerate(truth.categories):
        row: dict[str, Any] = {"class": category.name, "ground_truth": objects[category.id]}
        for task, task_scores in scores.items():
            if task_scores.per_class:
                row.update({f"{task}/{key}": value for key, value in task_scores.per_class[position].items()})
        rows.append(row)
    return rows
