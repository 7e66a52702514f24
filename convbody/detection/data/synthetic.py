"""A data set drawn on the spot: circles, squares and triangles with boxes, polygons and keypoints.

The same arguments always give the same pictures, and picture i does not depend on how many there are.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convbody.data.errors import DataError
from convbody.data.files import write_atomically
from convbody.detection.data.masks import decode_mask

CLASSES = ("circle", "square", "triangle")
KEYPOINTS = ("top", "left_corner", "right_corner", "bottom")
_SKELETON = [[1, 2], [2, 4], [4, 3], [3, 1]]


@dataclass(frozen=True)
class Shape:
    """One object: its label from 1, outline (P, 2) and keypoints (4, 2), both x, y in pixels."""

    label: int
    outline: np.ndarray
    keypoints: np.ndarray


def make_synthetic(
    folder: Path | str, images: int = 100, size: int = 128, seed: int = 0, max_objects: int = 4
) -> Path:
    """Write ``images`` square pictures of ``size`` pixels with 1 to ``max_objects`` objects each.

    Gives the path of the COCO file, ``folder/annotations.json``; the pictures are
    ``folder/images/000001.png`` and so on. A folder that already holds this very data set is left as it is.
    Objects do not touch. Raises DataError for less than one image, images under 32 pixels, or a folder that
    cannot be made.
    """
    if images < 1 or size < 32 or max_objects < 1:
        raise DataError(
            f"cannot draw {images} images of {size} pixels with up to {max_objects} objects: "
            "it takes at least 1 image, 32 pixels and 1 object"
        )
    folder = Path(folder)
    ann_file = folder / "annotations.json"
    info = {"images": images, "size": size, "seed": seed, "max_objects": max_objects}
    if _holds(ann_file, info):
        return ann_file
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make {folder / 'images'}: {error.strerror}") from error
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        rng = np.random.default_rng([seed, image_id])
        shapes = _scatter(rng, size, int(rng.integers(1, max_objects + 1)))
        file_name = f"{image_id:06d}.png"
        picture, masks = _paint(rng, size, shapes)
        Image.fromarray(picture).save(folder / "images" / file_name)
        records.append({"id": image_id, "file_name": file_name, "width": size, "height": size})
        for shape, mask in zip(shapes, masks, strict=True):
            annotations.append(_annotation(len(annotations) + 1, image_id, shape, int(mask.sum())))
    categories = [
        {"id": label, "name": name, "keypoints": list(KEYPOINTS), "skeleton": _SKELETON}
        for label, name in enumerate(CLASSES, start=1)
    ]
    data = {"info": info, "images": records, "annotations": annotations, "categories": categories}
    write_atomically(ann_file, json.dumps(data).encode())
    return ann_file


def _holds(ann_file: Path, info: dict[str, int]) -> bool:
    # The annotations are written last, so where they are, so are the pictures.
    return ann_file.is_file() and json.loads(ann_file.read_bytes()).get("info") == info


def _scatter(rng: np.random.Generator, size: int, count: int) -> list[Shape]:
    """Up to ``count`` shapes whose boxes keep apart; one that finds no place is given up after some tries."""
    shapes: list[Shape] = []
    taken: list[tuple[float, float, float]] = []
    for _ in range(count):
        for _ in range(20):
            radius = rng.uniform(0.09, 0.2) * size
            x, y = rng.uniform(radius + 1, size - radius - 1, 2)
            if all(max(abs(x - u), abs(y - v)) > radius + r + 1 for u, v, r in taken):
                taken.append((x, y, radius))
                shapes.append(_shape(int(rng.integers(len(CLASSES))) + 1, x, y, radius))
                break
    return shapes


def _shape(label: int, x: float, y: float, radius: float) -> Shape:
    """A shape around (x, y); its keypoints are the middles of a square's sides, the corners of a triangle."""
    left, right, top, bottom = x - radius, x + radius, y - radius, y + radius
    if CLASSES[label - 1] == "circle":
        angles = np.linspace(0, 2 * math.pi, 32, endpoint=False)
        outline = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
        keypoints = [(x, top), (left, y), (right, y), (x, bottom)]
    elif CLASSES[label - 1] == "square":
        outline = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        keypoints = [(x, top), (left, y), (right, y), (x, bottom)]
    else:
        outline = np.array([(x, top), (right, bottom), (left, bottom)])
        keypoints = [(x, top), (left, bottom), (right, bottom), (x, bottom)]
    # Rounded as the file keeps them, so that the picture is painted from the very polygon that is written.
    return Shape(label, outline.round(2), np.array(keypoints).round(2))


def _paint(rng: np.random.Generator, size: int, shapes: list[Shape]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The picture uint8 (size, size, 3), and the mask of each shape as its polygon decodes."""
    coarse = rng.uniform(60, 130, (max(2, size // 16), max(2, size // 16), 3)).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    picture = np.asarray(smooth, np.float64)
    masks = []
    for shape in shapes:
        mask = decode_mask((shape.outline.reshape(-1),), size, size)
        masks.append(mask)
        # One strong channel stands out from the grey ground, whatever the other two are.
        colour = rng.uniform(20, 200, 3)
        colour[rng.integers(3)] = 235
        picture = np.where(mask[..., None] > 0, colour, picture)
    noise = rng.normal(0, 8, (size, size, 1))
    return (picture + noise).clip(0, 255).astype(np.uint8), masks


def _annotation(number: int, image_id: int, shape: Shape, area: int) -> dict[str, Any]:
    low, high = shape.outline.min(axis=0), shape.outline.max(axis=0)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": shape.label,
        "bbox": np.concatenate([low, high - low]).round(2).tolist(),
        "segmentation": [shape.outline.reshape(-1).tolist()],
        "area": area,
        "iscrowd": 0,
        "keypoints": [value for x, y in shape.keypoints.tolist() for value in (x, y, 2)],
        "num_keypoints": len(shape.keypoints),
    }
