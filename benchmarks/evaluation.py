"""hotcoco beside pycocotools: COCO scores of drawn detections, times and statistics.

    python benchmarks/evaluation.py [--images 500] [--rounds 3] [--tasks bbox segm keypoints]

COCO's val2017 is about as large as 5,000 of these images: seven objects and nine detections each, of 80
classes (keypoints: of one). Both evaluators take their turn in every round, from records to the finished
table (``convbody.detection.evaluation.scoring.score``), and ratios are those of one round. CPU time is user
and system time of all threads. Median, lower and upper quartile. Exits with status 1 where a statistic
differs in any digit.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import sys
import time
from typing import Any

import measure
import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from convbody.detection.evaluation.scoring import TaskScores, score

EVALUATORS = ("pycocotools", "hotcoco")
TASKS = ("bbox", "segm", "keypoints")
HEIGHT, WIDTH, CLASSES, KEYPOINTS = 480, 640, 80, 17
OBJECTS, DETECTIONS = 7, 9


def draw(images: int, task: str, seed: int = 0) -> tuple[COCO, list[dict[str, Any]]]:
    """Ground truth, and detections of which most lie near an object."""
    rng = np.random.default_rng(seed)
    annotations, records = [], []
    for image in range(1, images + 1):
        objects = [_object(rng, image, task) for _ in range(OBJECTS)]
        annotations += objects
        for number in range(DETECTIONS):
            near = objects[number] if number < OBJECTS else _object(rng, image, task)
            records.append(_detection(rng, near, task))
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image, "height": HEIGHT, "width": WIDTH} for image in range(1, images + 1)],
        "categories": [
            {"id": number, "name": str(number), "keypoints": [str(point) for point in range(KEYPOINTS)]}
            for number in range(1, (1 if task == "keypoints" else CLASSES) + 1)
        ],
        "annotations": [{**annotation, "id": number} for number, annotation in enumerate(annotations, 1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth, records


def _object(rng: np.random.Generator, image: int, task: str) -> dict[str, Any]:
    width, height = rng.uniform(8, 240, 2)
    x, y = rng.uniform(0, WIDTH - width), rng.uniform(0, HEIGHT - height)
    drawn: dict[str, Any] = {
        "image_id": image,
        "category_id": 1 if task == "keypoints" else int(rng.integers(1, CLASSES + 1)),
        "bbox": [float(number) for number in (x, y, width, height)],
        "area": float(width * height),
        "iscrowd": int(rng.random() < 0.01),
    }
    if task == "segm":
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        around = np.stack(
            [x + width / 2 * (1 + np.cos(angles)), y + height / 2 * (1 + np.sin(angles))], axis=1
        )
        drawn["segmentation"] = [around.ravel().tolist()]
    if task == "keypoints":
        points = np.stack(
            [rng.uniform(x, x + width, KEYPOINTS), rng.uniform(y, y + height, KEYPOINTS)], axis=1
        )
        drawn["keypoints"] = np.insert(points, 2, 2, axis=1).ravel().tolist()
    return drawn


def _detection(rng: np.random.Generator, near: dict[str, Any], task: str) -> dict[str, Any]:
    shift = rng.normal(0, 6, 2)
    x, y, width, height = near["bbox"]
    record = {
        "image_id": near["image_id"],
        "category_id": near["category_id"],
        "bbox": [round(float(number), 3) for number in (x + shift[0], y + shift[1], width, height)],
        "score": round(float(rng.random()), 6),
    }
    if task == "segm":
        moved = (np.reshape(near["segmentation"][0], (-1, 2)) + shift).clip(0, WIDTH - 1)
        runs = coco_mask.merge(coco_mask.frPyObjects([moved.ravel().tolist()], HEIGHT, WIDTH))
        record["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": runs["counts"].decode()}
    if task == "keypoints":
        points = np.reshape(near["keypoints"], (-1, 3))
        record["keypoints"] = (points + [*shift, 0]).round(3).ravel().tolist()
    return record


def timed(
    evaluator: str, truth: COCO, records: list[dict[str, Any]], task: str
) -> tuple[TaskScores, float, float]:
    """The scores, and wall and CPU seconds they took."""
    images, classes = truth.getImgIds(), truth.getCatIds()
    wall, cpu = time.perf_counter(), time.process_time()
    scores = score(truth, records, task, images, classes, evaluator)
    return scores, time.perf_counter() - wall, time.process_time() - cpu


def differences(one: TaskScores, other: TaskScores) -> list[str]:
    """The fields in which two results are not the same in every digit."""
    names = [field.name for field in dataclasses.fields(TaskScores)]
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def compare(images: int, task: str, rounds: int) -> list[str]:
    """Prints one task's times and ratios; gives what differs."""
    timed("hotcoco", *draw(1, task), task)  # the first use imports
    truth, records = draw(images, task)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in EVALUATORS}
    scores: dict[str, TaskScores] = {}
    for _ in range(rounds):
        for name in EVALUATORS:
            scores[name], *taken = timed(name, truth, records, task)
            seconds[name].append((taken[0], taken[1]))
    for kind, title in enumerate(("wall", "CPU")):
        ours, theirs = ([taken[kind] for taken in seconds[name]] for name in ("hotcoco", "pycocotools"))
        ratios = [slow / fast for slow, fast in zip(theirs, ours, strict=True)]
        print(
            f"{task:10} {title:5} pycocotools {measure.quartiles(theirs)} s, "
            f"hotcoco {measure.quartiles(ours)} s, ratio {measure.quartiles(ratios, 1)}"
        )
    wrong = differences(scores["pycocotools"], scores["hotcoco"])
    said = f"differ: {', '.join(wrong)}" if wrong else "equal in every digit"
    print(f"{task:10} AP {scores['hotcoco'].metrics['AP']:.6f}; {said}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=500, help="images in the data set (500)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each evaluator scores it (3)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    args = parser.parse_args()
    print(measure.environment("pycocotools", "hotcoco", "numpy"))
    print(f"{args.images} images, {OBJECTS} objects and {DETECTIONS} detections each, {args.rounds} rounds")
    wrong = [compare(args.images, task, args.rounds) for task in args.tasks]
    return int(any(wrong))


if __name__ == "__main__":
    sys.exit(main())
