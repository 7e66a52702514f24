"""A data set in COCO's format: images with boxes, and where asked for, masks and keypoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from convbody.data.classes import ClassNames
from convbody.data.errors import DataError
from convbody.data.exif_choice import Orientations
from convbody.data.images import DEFAULT_RULES, ImageRules, read_rgb
from convbody.detection.data.check import read_records
from convbody.detection.data.geometry import clip_box, has_area
from convbody.detection.data.labels import category_labels, classes_of, shown
from convbody.detection.data.masks import decode_mask
from convbody.detection.data.records import Annotation, Category, ImageRecord, OriginalId
from convbody.detection.data.tables import Records
from convbody.detection.masks import EncodedMasks
from registry.errors import printable

Sample = tuple[Tensor, dict[str, Any]]


class CocoDataset(Dataset[Sample]):
    """Images in the order of the annotation file.

    ``dataset[i]`` is ``(image, target)``: the image float32 (3, H, W), RGB in 0-1, in its own size, and

    * ``boxes`` float32 (N, 4) xyxy in pixels, cut at the border; ``labels`` int64 (N,), 1 for the first
      of the classes;
    * ``area`` float32 (N,) in square pixels; ``iscrowd`` int64 (N,); ``image_id`` int; ``file_name`` str;
    * with ``masks``, ``masks`` uint8 (N, H, W); with ``keypoints``, ``keypoints`` float32 (N, K, 3): x, y,
      and the visibility 0 (not labelled, x = y = 0), 1 (hidden), or 2 (visible).

    N may be 0. Objects whose box has nothing inside the image are left out. Reading an image raises
    DataError, which names the file, where it is missing, damaged, or not of the size that its annotations
    say.

    Attributes: ``images`` and ``categories`` (the file's records), ``classes`` (names by label, 1 first, None
    for a label of no class), ``class_names`` (the same as text), ``label_to_category`` (label to COCO's
    category id, of the classes that the file has), ``keypoint_names`` (K of them, empty without
    ``keypoints``).
    """

    def __init__(
        self,
        image_dir: Path | str,
        ann_file: Path | str,
        *,
        records: Records | None = None,
        masks: bool = False,
        keypoints: bool = False,
        labels_by_id: bool = False,
        classes: ClassNames | None = None,
        rules: ImageRules = DEFAULT_RULES,
        orientations: Orientations | None = None,
    ) -> None:
        """``records`` are those of ``ann_file``, with masks and keypoints where asked for; None reads them.

        ``classes`` are those of a detector, among which each category has to be, by its name. Without it
        labels follow the category ids: one after the other or, with ``labels_by_id``, the ids themselves,
        gaps included. ``rules`` say how images are read, ``orientations`` what became of their EXIF
        orientations as far as is known. Raises DataError where the file is read here and has a mistake.
        """
        self.image_dir, self.ann_file = Path(image_dir), Path(ann_file)
        self.rules, self.orientations = rules, orientations or Orientations()
        if records is None:
            records = read_records(
                self.ann_file, self.image_dir, masks=masks, keypoints=keypoints, rules=rules
            )
        self.records = records
        self.images: Sequence[ImageRecord] = records.images
        self.categories = records.categories
        self.classes = tuple(classes_of(self.categories, labels_by_id) if classes is None else classes)
        self.class_names = shown(self.classes)
        self.category_to_label = category_labels(self.categories, self.classes)
        self.label_to_category = {label: category for category, label in self.category_to_label.items()}
        self.with_masks = masks
        self.keypoint_names = self._one_skeleton(self.categories) if keypoints else []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        image, target = self.load(index)
        return plain(image, target)

    def image_path(self, index: int) -> Path:
        """The file of image ``index``."""
        return self.image_dir / self.images[index].file_name

    def picture(self, index: int) -> Image:
        """Image ``index`` alone, 8-bit RGB. Raises DataError as ``dataset[index]`` does."""
        path, record = self.image_path(index), self.images[index]
        expected = (record.width, record.height)
        picture = read_rgb(path, self.rules, expected)
        if picture.size != expected:
            raise DataError(
                f"image {printable(str(path))} is {picture.width}x{picture.height}, and {self.ann_file} says "
                f"{expected[0]}x{expected[1]}"
            )
        return picture

    def objects(self, index: int) -> list[Annotation]:
        """The annotations of image ``index`` in the file's order, crowds among them."""
        return self.records.objects(index)

    def original_image(self, image_id: int) -> OriginalId:
        """The id that the annotation file has for an image."""
        return self.records.original_images.get(image_id, image_id)

    def original_category(self, category_id: int) -> OriginalId:
        """The id that the annotation file has for a category."""
        return self.records.original_categories.get(category_id, category_id)

    def aspect_ratio(self, index: int) -> float:
        """Width over height of image ``index``, as its annotations say."""
        return self.images[index].width / self.images[index].height

    def load(self, index: int, crowd: bool = True) -> Sample:
        """Like ``dataset[index]``, but ready for torchvision's transforms.

        The image is uint8. Boxes and masks are tv_tensors, and so are the keypoints' ``points`` (N, K, 2),
        which come apart from their ``visibility`` (N, K). Without ``crowd``, crowds are left out.
        """
        picture = self.picture(index)
        target = self._target(index, crowd)
        if "masks" in target:
            target["masks"] = tv_tensors.Mask(target["masks"].pasted())
        return tv_tensors.Image(functional.pil_to_tensor(picture)), target

    def truth(self, index: int) -> dict[str, Any]:
        """The target of ``dataset[index]``, without reading the image; ``masks`` are EncodedMasks."""
        return _plain_target(self._target(index, crowd=True))

    def _target(self, index: int, crowd: bool) -> dict[str, Any]:
        record = self.images[index]
        canvas = height, width = record.height, record.width
        annotations = [
            annotation
            for annotation in self.objects(index)
            if (crowd or not annotation.iscrowd)
            and has_area(clip_box(annotation.bbox, height, width), height, width)
        ]
        boxes = np.array([clip_box(annotation.bbox, height, width) for annotation in annotations], np.float32)
        labels = [self.category_to_label[annotation.category_id] for annotation in annotations]
        areas = [annotation.area for annotation in annotations]
        crowds = [int(annotation.iscrowd) for annotation in annotations]
        target: dict[str, Any] = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(boxes.reshape(-1, 4)), format="XYXY", canvas_size=canvas
            ),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "area": torch.tensor(areas, dtype=torch.float32),
            "iscrowd": torch.tensor(crowds, dtype=torch.int64),
            "image_id": record.id,
            "file_name": str(self.image_path(index)),
        }
        if self.with_masks:
            target["masks"] = EncodedMasks(annotations, canvas, partial(self._mask, canvas))
        if self.keypoint_names:
            keypoints = torch.from_numpy(self._keypoints(annotations))
            target["points"] = tv_tensors.KeyPoints(keypoints[..., :2].clone(), canvas_size=canvas)
            target["visibility"] = keypoints[..., 2].clone()
        return target

    def _mask(self, size: tuple[int, int], annotation: Annotation) -> np.ndarray:
        if annotation.segmentation is None:
            return np.zeros(size, np.uint8)
        return decode_mask(annotation.segmentation, *size)

    def _keypoints(self, annotations: list[Annotation]) -> np.ndarray:
        count = len(self.keypoint_names)
        keypoints = np.zeros((len(annotations), count, 3), np.float32)
        for row, annotation in zip(keypoints, annotations, strict=True):
            # Crowds and objects that nobody labelled have none.
            if annotation.keypoints is not None:
                row[:] = annotation.keypoints
        keypoints[keypoints[..., 2] == 0] = 0
        return keypoints

    def _one_skeleton(self, categories: Sequence[Category]) -> list[str]:
        skeletons = {category.keypoints for category in categories}
        if len(skeletons) != 1 or not (skeleton := skeletons.pop()):
            raise DataError(
                f'keypoints need categories with one and the same list "keypoints"; in {self.ann_file} '
                f"they have {[len(category.keypoints) for category in categories]} names"
            )
        return list(skeleton)


def plain(image: Tensor, target: Mapping[str, Any]) -> Sample:
    """What ``load`` or a transform gives, as the plain tensors that a detector takes."""
    image = functional.to_dtype(image.as_subclass(Tensor), torch.float32, scale=True)
    return image, _plain_target(target)


def _plain_target(target: Mapping[str, Any]) -> dict[str, Any]:
    target = dict(target)
    if "points" in target:
        points, visibility = target.pop("points").as_subclass(Tensor), target.pop("visibility")
        keypoints = torch.cat([points, visibility[..., None]], dim=-1)
        target["keypoints"] = keypoints * (visibility > 0)[..., None]
    return {
        key: value.as_subclass(Tensor) if isinstance(value, Tensor) else value
        for key, value in target.items()
    }
