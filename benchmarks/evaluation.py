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
import dataclasses
import sys
import time
from typing import Any

import measure
import numpy as np
from pycocotools import mask as coco_mask

from convbody.detection.data.records import Annotation, Category, ImageRecord
from convbody.detection.evaluation.scoring import TaskScores, score
from convbody.detection.evaluation.truth import GroundTruth

EVALUATORS = ("pycocotools", "hotcoco")
TASKS = ("bbox", "segm", "keypoints")
HEIGHT, WIDTH, CLASSES, KEYPOINTS = 480, 640, 80, 17
OBJECTS, DETECTIONS = 7, 9


def draw(images: int, task: str, seed: int = 0) -> tuple[GroundTruth, list[dict[str, Any]]]:
    """Ground truth, and detections of which most lie near an object."""
    rng = np.random.default_rng(seed)
    annotations, records = [], []
    for image in range(1, images + 1):
        objects = [_object(rng, image, task) for _ in range(OBJECTS)]
        annotations += objects
        for number in range(DETECTIONS):
            near = objects[number] if number < OBJECTS else _object(rng, image, task)
            records.append(_detection(rng, near, task))
    names = tuple(str(point) for point in range(KEYPOINTS))
    truth = GroundTruth(
        images=[ImageRecord(image, f"{image}.png", WIDTH, HEIGHT) for image in range(1, images + 1)],
        categories=[
            Category(number, str(number), names)
            for number in range(1, (1 if task == "keypoints" else CLASSES) + 1)
        ],
        annotations=annotations,
    )
    return truth, records


def _object(rng: np.random.Generator, image: int, task: str) -> Annotation:
    width, height = (float(number) for number in rng.uniform(8, 240, 2))
    x, y = float(rng.uniform(0, WIDTH - width)), float(rng.uniform(0, HEIGHT - height))
    category = 1 if task == "keypoints" else int(rng.integers(1, CLASSES + 1))
    crowd = bool(rng.random() < 0.01)
    polygons = points = None
    if task == "segm":
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        around = np.stack(
            [x + width / 2 * (1 + np.cos(angles)), y + height / 2 * (1 + np.sin(angles))], axis=1
        )
        polygons = (around.ravel(),)
    if task == "keypoints":
        places = np.stack(
            [rng.uniform(x, x + width, KEYPOINTS), rng.uniform(y, y + height, KEYPOINTS)], axis=1
        )
        points = np.insert(places, 2, 2, axis=1)
    return Annotation(
        image_id=image,
        category_id=category,
        bbox=(x, y, width, height),
        area=width * height,
        iscrowd=crowd,
        segmentation=polygons,
        keypoints=points,
        num_keypoints=KEYPOINTS,
    )


def _detection(rng: np.random.Generator, near: Annotation, task: str) -> dict[str, Any]:
    shift = rng.normal(0, 6, 2)
    x, y, width, height = near.bbox
    record: dict[str, Any] = {
        "image_id": near.image_id,
        "category_id": near.category_id,
        "bbox": [round(float(number), 3) for number in (x + shift[0], y + shift[1], width, height)],
        "score": round(float(rng.random()), 6),
    }
    if task == "segm":
        assert isinstance(near.segmentation, tuple)
        moved = (near.segmentation[0].reshape(-1, 2) + shift).clip(0, WIDTH - 1)
        runs = coco_mask.merge(coco_mask.frPyObjects([moved.ravel().tolist()], HEIGHT, WIDTH))
        record["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": runs["counts"].decode()}
    if task == "keypoints":
        assert near.keypoints is not None
        record["keypoints"] = (near.keypoints + [*shift, 0]).round(3).ravel().tolist()
    return record


def timed(
    evaluator: str, truth: GroundTruth, records: list[dict[str, Any]], task: str
) -> tuple[TaskScores, float, float]:
    """The scores, and wall and CPU seconds they took."""
    wall, cpu = time.perf_counter(), time.process_time()
    scores = score(truth, records, task, evaluator)
    return scores, time.perf_counter() - wall, time.process_time() - cpu


def differences(one: TaskScores, other: TaskScores) -> list[str]:
    """The fields in which two results are not the same in every digit."""
    names = [field.name for field in dataclasses.fields(TaskScores) if field.compare]
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
