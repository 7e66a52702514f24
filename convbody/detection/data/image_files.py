"""The image files of a data set: whether they are there and whole, and how large they are."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from convbody.data.errors import DataError
from convbody.data.images import image_size
from convbody.detection.data.image_entries import MOST_PIXELS, ImageEntries
from convbody.detection.data.report import DatasetReport


def check_images(images: ImageEntries, folder: Path, how: str, report: DatasetReport) -> None:
    """Look at the image files in ``folder``; mistakes are added to ``report``.

    ``how``: "quick" reads every image's header and end, "full" decodes it, "none" leaves images alone. In any
    case images are opened whose entry has no size, which is filled in, and looked for under their other name
    where they are not under the first.
    """
    for position, other in images.other_names.items():
        if not os.path.isfile(folder / images.names[position]) and os.path.isfile(folder / other):
            images.names[position] = other
    wanted = [i for i in range(len(images)) if i not in report.bad_images]
    if how == "none":
        wanted = [i for i in wanted if not images.sizes[i].all()]

    def look(position: int) -> tuple[tuple[int, int] | None, tuple[str, str] | None]:
        path = folder / images.names[position]
        if not os.path.isfile(path):
            return None, ("image missing", str(path))
        try:
            return image_size(path, how == "full"), None
        except DataError as error:
            return None, ("image damaged", f"{path}: {error}")

    # Reading headers waits for the disk, so threads help.
    with ThreadPoolExecutor(8) as pool:
        for position, (size, mistake) in zip(wanted, pool.map(look, wanted), strict=True):
            if mistake is not None:
                report.add_image(position, *mistake)
            elif size is not None:
                _compare(images, position, size, report, folder)


def _compare(
    images: ImageEntries, position: int, size: tuple[int, int], report: DatasetReport, folder: Path
) -> None:
    told = images.sizes[position].tolist()
    path = folder / images.names[position]
    if any(side and side != real for side, real in zip(told, size, strict=True)):
        detail = f"{path} is {size[0]}x{size[1]}, not {told[0] or size[0]}x{told[1] or size[1]}"
        report.add_image(position, "image of another size than its entry says", detail)
    elif size[0] * size[1] >= MOST_PIXELS:
        report.add_image(position, f"image of {MOST_PIXELS} pixels or more", str(path))
    else:
        images.sizes[position] = size
