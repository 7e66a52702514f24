"""Test images for the report, ground truth beside predictions."""

from __future__ import annotations

import base64
import io
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from convbody.data.errors import DataError
from convbody.detection.data import CocoDataset
from convbody.detection.evaluation.inference import output_of_records
from convbody.detection.evaluation.result import EvaluationResult
from convbody.detection.visualize import draw_detections, draw_targets
from registry.errors import printable

_SMALLEST_SIDE, _LONGEST_SIDE = 560, 760  # pixels of an image in the report
_JPEG_QUALITY = 82
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One test image of the report."""

    group: str
    """"Best", "Worst" or "Random"."""
    name: str
    f1: float
    objects: int
    detections: int
    truth: str
    """The drawing as a data URI; so is ``predictions``."""
    predictions: str


def choose(
    f1: Sequence[float], objects: Sequence[int], each: int = 2, seed: int = 0
) -> list[tuple[str, int]]:
    """(group, position) of the ``each`` best, worst and random others by F1, no image twice.

    Of equally good ones those with more ``objects`` are taken: they show more.
    """
    everything = range(len(f1))
    best = sorted(everything, key=lambda position: (-f1[position], -objects[position]))[:each]
    left = [position for position in everything if position not in best]
    worst = sorted(left, key=lambda position: (f1[position], -objects[position]))[:each]
    left = [position for position in left if position not in worst]
    others = random.Random(seed).sample(left, min(each, len(left)))
    groups = (("Best", best), ("Worst", worst), ("Random", others))
    return [(group, position) for group, positions in groups for position in positions]


def samples(result: EvaluationResult, dataset: CocoDataset, each: int = 2) -> list[Sample]:
    """The chosen images of ``dataset``, drawn. Predictions are those above the result's operating point.

    An image that cannot be read any more is left out, which is logged.
    """
    positions = {str(dataset.original_image(image.id)): place for place, image in enumerate(dataset.images)}
    image_ids = [image_id for image_id in result.image_f1 if image_id in positions]
    names, threshold = dataset.class_names, result.operating_point.score
    labels = {dataset.original_category(c): label for label, c in dataset.label_to_category.items()}
    drawn = []
    objects = [len(dataset.objects(positions[image_id])) for image_id in image_ids]
    for group, chosen in choose([result.image_f1[image_id] for image_id in image_ids], objects, each):
        image_id = image_ids[chosen]
        position = positions[image_id]
        try:
            image, target = dataset.picture(position), dataset.truth(position)
        except DataError as error:
            logger.warning("%s; the report does without it", error)
            continue
        records = [record for record in result.predictions if str(record["image_id"]) == image_id]
        output = output_of_records(records, labels)
        drawn.append(
            Sample(
                group=group,
                name=printable(dataset.images[position].file_name),
                f1=result.image_f1[image_id],
                objects=len(target["boxes"]),
                detections=int((output["scores"] >= threshold).sum()),
                truth=_data_uri(draw_targets(image, target, names, smallest_side=_SMALLEST_SIDE)),
                predictions=_data_uri(
                    draw_detections(
                        image, output, names, score_threshold=threshold, smallest_side=_SMALLEST_SIDE
                    )
                ),
            )
        )
    return drawn


def _data_uri(picture: Image.Image) -> str:
    picture = picture.copy()
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
