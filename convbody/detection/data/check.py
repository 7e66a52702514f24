"""A data set is read through before training: every mistake in it, in one report, before hours are spent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convbody.data.errors import DataError
from convbody.data.images import image_size
from convbody.detection.data.annotations import run_lengths

_EXAMPLES = 3
# Annotation tools round: a box may reach this many pixels over the border; it is cut there.
_BORDER = 1.0


@dataclass
class Problem:
    """One kind of mistake: how often it was found, and the first examples of it."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Count one more; only the first few are kept as examples."""
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example)


@dataclass
class DatasetReport:
    """What is wrong with a data set: problems by kind, and the positions of the entries that have them."""

    name: str
    image_count: int
    annotation_count: int
    problems: dict[str, Problem] = field(default_factory=dict)
    bad_images: set[int] = field(default_factory=set)
    bad_annotations: set[int] = field(default_factory=set)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems

    def __str__(self) -> str:
        lines = [
            f"data set {self.name!r}: {len(self.bad_images)} of {self.image_count} images and "
            f"{len(self.bad_annotations)} of {self.annotation_count} annotations have mistakes"
        ]
        for kind, problem in self.problems.items():
            more = ", ..." if problem.count > len(problem.examples) else ""
            lines.append(f"  {problem.count} x {kind}: {', '.join(problem.examples)}{more}")
        return "\n".join(lines)

    def add_image(self, position: int, kind: str, example: str) -> None:
        """Record that image ``position`` of the file's list has a mistake."""
        self.problems.setdefault(kind, Problem()).add(example)
        self.bad_images.add(position)

    def add_annotation(self, position: int, kind: str, example: str) -> None:
        """Record that annotation ``position`` of the file's list has a mistake."""
        self.problems.setdefault(kind, Problem()).add(example)
        self.bad_annotations.add(position)


def check_dataset(
    data: Mapping[str, Any],
    image_dir: Path,
    *,
    name: str = "",
    read_images: str = "quick",
    masks: bool = False,
) -> DatasetReport:
    """Check the content of a COCO file and its images.

    ``read_images``: "quick" reads every image's header and end, "full" decodes it, "none" leaves images
    alone. With ``masks`` every annotation must have one.

    Found are: missing, damaged or truncated images and sizes that differ from the file's; image,
    annotation and category ids given twice; annotations of unknown images or categories; boxes that are no
    four numbers, not finite, empty, inverted or outside of the image; polygons under 3 points, run-length
    codes of another size than the image; keypoints that are not 3 numbers for each name.
    """
    report = DatasetReport(name, len(data["images"]), len(data["annotations"]))
    images = _check_images(data["images"], report)
    if read_images != "none":
        _read_images(data["images"], Path(image_dir), read_images == "full", report)
    categories = _check_categories(data["categories"])
    seen: set[Any] = set()
    for position, annotation in enumerate(data["annotations"]):
        here = f"annotation {annotation.get('id', f'number {position}')}"
        if annotation.get("id") in seen or "id" not in annotation:
            report.add_annotation(position, "annotation id missing or given twice", here)
        seen.add(annotation.get("id"))
        if masks and not annotation.get("segmentation"):
            report.add_annotation(position, "annotation without a mask, which MODEL.MASK_ON needs", here)
        for kind, detail in _annotation_mistakes(annotation, images, categories):
            report.add_annotation(position, kind, f"{here} ({detail})")
    return report


def without_mistakes(data: dict[str, Any], report: DatasetReport) -> dict[str, Any]:
    """The content of a COCO file less what ``report`` found; annotations of a dropped image go with it."""
    images = [image for i, image in enumerate(data["images"]) if i not in report.bad_images]
    kept = {image["id"] for image in images}
    annotations = [
        annotation
        for i, annotation in enumerate(data["annotations"])
        if i not in report.bad_annotations and annotation["image_id"] in kept
    ]
    return {**data, "images": images, "annotations": annotations}


def _check_images(images: Sequence[Mapping[str, Any]], report: DatasetReport) -> dict[Any, Mapping[str, Any]]:
    known: dict[Any, Mapping[str, Any]] = {}
    for position, image in enumerate(images):
        here = f"image {image.get('id', f'number {position}')}"
        if missing := [key for key in ("id", "file_name", "width", "height") if key not in image]:
            report.add_image(position, "image entry without " + ", ".join(missing), here)
        elif image["id"] in known:
            report.add_image(position, "image id given twice", f"{here} ({image['file_name']})")
        else:
            known[image["id"]] = image
    return known


def _read_images(
    images: Sequence[Mapping[str, Any]], folder: Path, full: bool, report: DatasetReport
) -> None:
    def mistake(image: Mapping[str, Any]) -> tuple[str, str] | None:
        path = folder / str(image.get("file_name", ""))
        if not path.is_file():
            return "image missing", str(path)
        try:
            size = image_size(path, full)
        except DataError as error:
            return "image damaged", f"{path} ({error})"
        if size != (image.get("width"), image.get("height")):
            told = f"{image.get('width')}x{image.get('height')}"
            return "image of another size than its entry says", f"{path} (is {size[0]}x{size[1]}, not {told})"
        return None

    # Reading headers waits for the disk, so threads help.
    with ThreadPoolExecutor(8) as pool:
        for position, found in enumerate(pool.map(mistake, images)):
            if found and "file_name" in images[position]:
                report.add_image(position, *found)


def _check_categories(categories: Sequence[Mapping[str, Any]]) -> dict[Any, Mapping[str, Any]]:
    known: dict[Any, Mapping[str, Any]] = {}
    for category in categories:
        if "id" not in category or "name" not in category:
            raise DataError(f"a category needs an id and a name: {dict(category)}")
        if category["id"] in known:
            raise DataError(f"category id {category['id']} is given twice")
        known[category["id"]] = category
    return known


def _annotation_mistakes(
    annotation: Mapping[str, Any],
    images: Mapping[Any, Mapping[str, Any]],
    categories: Mapping[Any, Mapping[str, Any]],
) -> Iterator[tuple[str, str]]:
    image, category = images.get(annotation.get("image_id")), categories.get(annotation.get("category_id"))
    if category is None:
        yield "annotation of an unknown category", f"category {annotation.get('category_id')}"
    if image is None:
        yield "annotation of an unknown image", f"image {annotation.get('image_id')}"
        return
    width, height = image["width"], image["height"]
    yield from _box_mistakes(annotation.get("bbox"), width, height)
    yield from _segmentation_mistakes(annotation.get("segmentation"), width, height)
    names = (category or {}).get("keypoints")
    if names and annotation.get("keypoints") and len(annotation["keypoints"]) != 3 * len(names):
        detail = f"{len(annotation['keypoints'])} numbers for {len(names)} names"
        yield "keypoints that are not 3 numbers for each name", detail


def _box_mistakes(box: Any, width: float, height: float) -> Iterator[tuple[str, str]]:
    if not _numbers(box) or len(box) != 4:
        yield "box that is not four numbers", repr(box)
    elif not all(map(math.isfinite, box)):
        yield "box that is not finite", repr(box)
    elif box[2] < 0 or box[3] < 0:
        yield "box that is inverted", repr(box)
    elif box[2] == 0 or box[3] == 0:
        yield "box that is empty", repr(box)
    elif (
        min(box[0], box[1]) < -_BORDER
        or box[0] + box[2] > width + _BORDER
        or box[1] + box[3] > height + _BORDER
    ):
        yield "box outside of the image", f"{box!r} in {width}x{height}"


def _segmentation_mistakes(segmentation: Any, width: int, height: int) -> Iterator[tuple[str, str]]:
    if isinstance(segmentation, Mapping):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if list(size or ()) != [height, width]:
            yield "run-length code of another size than its image", f"{size} in {[height, width]}"
        elif not _covers(counts, height * width):
            yield "run-length code that does not cover its image", f"{width}x{height}"
        return
    for polygon in segmentation or ():
        if not _numbers(polygon) or len(polygon) < 6 or len(polygon) % 2:
            yield "polygon under 3 points", repr(polygon)
        elif not all(map(math.isfinite, polygon)):
            yield "polygon that is not finite", repr(polygon[:6])


def _covers(counts: Any, pixels: int) -> bool:
    try:
        return sum(run_lengths(counts)) == pixels
    except ValueError:
        return False


def _numbers(values: Any) -> bool:
    return isinstance(values, Sequence) and all(isinstance(v, int | float) for v in values)
