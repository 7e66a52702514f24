"""The image files of a data set: whether they are there and whole, and how large they are."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from convbody.data.errors import DataError
from convbody.data.images import EXIF_KEY, ImageLook, ImageRules, look_at
from convbody.detection.data.image_entries import MOST_PIXELS, ImageEntries
from convbody.detection.data.report import DatasetReport


def check_images(
    images: ImageEntries, folder: Path, how: str, report: DatasetReport, rules: ImageRules
) -> None:
    """Look at the image files in ``folder``; mistakes, and orientations, are added to ``report``.

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

    def look(position: int) -> ImageLook | tuple[str, str]:
        path = folder / images.names[position]
        if not os.path.isfile(path):
            return "image missing", str(path)
        width, height = images.sizes[position].tolist()
        try:
            return look_at(path, how == "full", rules, (width, height) if width and height else None)
        except DataError as error:
            return "image that cannot be read", f"{error}: {path}"  # long paths are cut

    # Reading headers waits for the disk, so threads help.
    with ThreadPoolExecutor(8) as pool:
        for position, found in zip(wanted, pool.map(look, wanted), strict=True):
            if isinstance(found, ImageLook):
                _compare(images, position, found, report, folder, rules)
            else:
                report.add_image(position, *found)


def _compare(
    images: ImageEntries,
    position: int,
    look: ImageLook,
    report: DatasetReport,
    folder: Path,
    rules: ImageRules,
) -> None:
    told, size = images.sizes[position].tolist(), look.size
    path = folder / images.names[position]
    if any(side and side != real for side, real in zip(told, size, strict=True)):
        detail = f"{path} is {size[0]}x{size[1]}, not {told[0] or size[0]}x{told[1] or size[1]}"
        kind = "image of another size than its entry says"
        if look.told_by_size and tuple(told) == size[::-1]:
            kind += f", because of its EXIF orientation and {EXIF_KEY} {rules.exif}"
        report.add_image(position, kind, detail)
    elif size[0] * size[1] >= MOST_PIXELS:
        report.add_image(position, f"image of {MOST_PIXELS} pixels or more", str(path))
    else:
        images.sizes[position] = size
        report.orientations.add(look, rules.exif)
