"""What a data set holds, in numbers: for the table before a run, and for which metrics it can give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pycocotools.cocoeval import Params

from convbody.detection.data.tables import Records

_COCO = Params()
#: COCO's sizes by the letter that metrics have: least and largest area, both included, square pixels.
SIZES = {label[0]: area for label, area in zip(_COCO.areaRngLbl[1:], _COCO.areaRng[1:], strict=True)}


@dataclass(frozen=True)
class Census:
    """Counts of a data set. Crowds are no objects."""

    images: int
    empty: int
    """Images without objects."""
    objects: int
    by_size: Mapping[str, int]
    """Objects of each of SIZES; one on a border is of both."""
    labelled_by_size: Mapping[str, int]
    """The same of those with labelled keypoints."""
    classes: int
    smallest: tuple[int, int]
    """Width and height of the image with the fewest pixels; so is ``largest``."""
    largest: tuple[int, int]

    def sizes_for(self, task: str) -> set[str]:
        """The letters of the sizes of which there is something to find in ``task``."""
        counts = self.labelled_by_size if task == "keypoints" else self.by_size
        return {size for size, count in counts.items() if count}

    def row(self, name: str, use: str) -> dict[str, str]:
        """The line of a table."""
        extents = dict.fromkeys(f"{width}x{height}" for width, height in (self.smallest, self.largest))
        return {
            "data set": name,
            "for": use,
            "images": f"{self.images:,}",
            "without objects": f"{self.empty:,}",
            "objects": f"{self.objects:,}",
            "small/medium/large": "/".join(f"{self.by_size[size]:,}" for size in SIZES),
            "classes": f"{self.classes:,}",
            "sizes": " to ".join(extents),
        }


def census(records: Records) -> Census:
    """Counts what there is, of one image at least."""
    table, order = records.annotations, records.order
    image = np.repeat(np.arange(len(records.images)), np.diff(records.starts))
    single = ~table.crowds[order]
    areas, labelled = table.areas[order][single], table.num_keypoints[order][single] > 0
    within = {size: (least <= areas) & (areas <= most) for size, (least, most) in SIZES.items()}
    by_pixels = np.argsort(records.images.sizes.prod(axis=1), kind="stable")
    smallest, largest = (records.images[int(by_pixels[place])] for place in (0, -1))
    return Census(
        images=len(records.images),
        empty=len(records.images) - len(np.unique(image[single])),
        objects=int(single.sum()),
        by_size={size: int(inside.sum()) for size, inside in within.items()},
        labelled_by_size={size: int((inside & labelled).sum()) for size, inside in within.items()},
        classes=len(records.categories),
        smallest=(smallest.width, smallest.height),
        largest=(largest.width, largest.height),
    )
