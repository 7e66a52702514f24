"""Detect objects in image files: a drawing and a JSON file for each."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchvision.transforms.v2 import functional

from convbody.data.exif_choice import for_prediction
from convbody.data.images import read_rgb
from convbody.detection.data import DataError
from convbody.detection.evaluation.inference import coco_records, run_model
from convbody.detection.files import as_text, distinct_stems, find_images
from convbody.detection.masks import chosen
from convbody.detection.trained import class_names, load_trained
from convbody.detection.visualize import draw_detections
from convbody.training.finite import require_finite
from convbody.training.logging import setup_logging
from convbody.training.step import autocast_dtype
from registry import Config, ConvbodyError
from registry.errors import printable

_LONGEST_JPEG = 65_500  # pixels of a side


def predict(
    cfg: Config,
    images: Sequence[str],
    *,
    weights: str | None = None,
    output_dir: Path | str = "predictions",
    score_threshold: float = 0.5,
    as_json: bool = False,
) -> int:
    """Detect objects in ``images`` (files, folders, glob patterns) with the trained detector of ``cfg``.

    For each image, ``<name>_detections.jpg`` (what scores ``score_threshold`` or more, drawn) and
    ``<name>_detections.json`` go to ``output_dir``, and one line to stdout: for people, or with ``as_json``
    the JSON itself. Images are turned by their EXIF orientation as those of the training were, or as
    DATASETS.EXIF says. stderr has the log, which names the weights, and images that cannot be read; the
    others are done all the same.

    Returns the exit status: 0, or 1 when an image could not be read. Raises ConvbodyError where there are no
    weights, where they have diverged, or where ``output_dir`` cannot be written.
    """
    setup_logging(stream=sys.stderr)  # stdout is for what is found
    files = list(find_images(images))
    trained = load_trained(cfg, weights)
    model, names = trained.model, class_names(cfg, trained)
    require_finite(model)
    rules = for_prediction(cfg, trained.weights.notes)
    mask_threshold = cfg.MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS_THRESHOLD
    output_dir = Path(output_dir)
    failures = 0
    for file, stem in zip(files, distinct_stems(files), strict=True):
        try:
            picture = read_rgb(file, rules)
        except DataError as error:
            print(f"error: {error}", file=sys.stderr)
            failures += 1
            continue
        image = functional.pil_to_tensor(picture).to(next(model.parameters()).device)
        output = run_model(model, [image], autocast_dtype(cfg))[0]
        drawing = draw_detections(
            picture, output, names, score_threshold=score_threshold, mask_threshold=mask_threshold
        )
        found = _described(output, names, score_threshold, mask_threshold)
        drawing.thumbnail((_LONGEST_JPEG, _LONGEST_JPEG))
        answer = {"file": as_text(file), "width": picture.width, "height": picture.height}
        answer["detections"] = found
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            drawing.save(output_dir / f"{stem}.jpg", quality=92)
            (output_dir / f"{stem}.json").write_text(json.dumps(answer, indent=1) + "\n")
        except OSError as error:
            raise ConvbodyError(f"cannot write to {output_dir}: {error}") from error
        line = f"{file}: {_summary(found)} -> {output_dir / stem}.jpg"
        print(json.dumps(answer) if as_json else printable(line))
    return 1 if failures else 0


def _described(
    output: dict[str, Any], names: Sequence[str], score_threshold: float, mask_threshold: float
) -> list[dict[str, Any]]:
    """The detections above the threshold, best first.

    Of each "class", "label", "score", "box" (x1, y1, x2, y2), and where the detector gives them
    "segmentation" (COCO run lengths) and "keypoints" (x, y, visibility of each).
    """
    kept = chosen(output, (output["scores"] >= score_threshold).nonzero()[:, 0])
    labels = kept["labels"].tolist() if "labels" in kept else [1] * len(kept["boxes"])
    same = {label: label for label in {1, *labels}}
    described = []
    for label, record in zip(labels, coco_records(kept, 0, same, mask_threshold), strict=True):
        x, y, width, height = record["bbox"]
        name = names[label - 1] if label <= len(names) else f"class {label}"
        entry = {"class": name, "label": label, "score": record["score"]}
        entry["box"] = [x, y, round(x + width, 3), round(y + height, 3)]
        entry |= {key: record[key] for key in ("segmentation", "keypoints") if key in record}
        described.append(entry)
    return sorted(described, key=lambda entry: -entry["score"])


def _summary(found: Sequence[dict[str, Any]]) -> str:
    counts = Counter(entry["class"] for entry in found)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing found"
