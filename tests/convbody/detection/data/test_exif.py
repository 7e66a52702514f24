"""Data sets of photographs that cameras stored turned, annotated by tools that turn them and by others."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convbody.data.exif_choice import Orientations
from convbody.data.orientation import turn_back
from convbody.detection.data import DataError, build_test_dataset

BOX = {"category_id": 3, "bbox": [5, 6, 20, 12]}


def store_turned(ann_file: Path, number: int, orientation: int) -> np.ndarray:
    """Stores an image of the data set as a camera does; gives the upright pixels."""
    path = ann_file.parent / "images" / f"{number}.png"
    picture = Image.open(path)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn_back(picture, orientation).save(path, exif=exif)
    return np.asarray(picture)


@pytest.fixture
def photographs(make_dataset):
    """Five images of 40x30 as annotated: upright, two quarter turns, half a turn, and a mirror image."""
    ann_file = make_dataset([{"image_id": i, **BOX} for i in range(1, 6)], ((40, 30),) * 5)
    pixels = [store_turned(ann_file, i, orientation) for i, orientation in enumerate((1, 6, 8, 3, 2), 1)]
    return ann_file, pixels


def test_auto_turns_what_the_size_tells_and_says_the_rest(photographs, cfg_for, caplog):
    ann_file, pixels = photographs
    with caplog.at_level(logging.INFO, logger="convbody"):
        dataset = build_test_dataset(cfg_for(ann_file.parent / "images", ann_file), "mine")
    assert dataset.orientations == Orientations(turned=2, untold=2)
    assert "EXIF orientation: 2 are turned by it, 2 are read as they are stored because half" in caplog.text
    for index, upright in enumerate(pixels):
        seen = np.asarray(dataset.picture(index))
        assert seen.shape == (30, 40, 3)
        assert np.array_equal(seen, upright) == (index < 3)


def test_apply_turns_all(photographs, cfg_for):
    ann_file, pixels = photographs
    cfg = cfg_for(ann_file.parent / "images", ann_file, "DATASETS.EXIF", "apply")
    dataset = build_test_dataset(cfg, "mine")
    assert dataset.orientations == Orientations(turned=4)
    for index, upright in enumerate(pixels):
        np.testing.assert_array_equal(np.asarray(dataset.picture(index)), upright)


def test_a_size_that_only_the_other_choice_gives_is_explained(photographs, make_dataset, cfg_for):
    ann_file, _ = photographs
    with pytest.raises(
        DataError, match="2 x image of .*, because of its EXIF orientation and DATASETS.EXIF ignore"
    ):
        build_test_dataset(cfg_for(ann_file.parent / "images", ann_file, "DATASETS.EXIF", "ignore"), "mine")


def test_annotations_of_stored_pixels_are_left_alone(make_dataset, cfg_for, caplog):
    ann_file = make_dataset([{"image_id": 1, **BOX}], ((30, 40),), folder="stored")
    path = ann_file.parent / "images" / "1.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.asarray(Image.open(path))
    Image.fromarray(stored).save(path, exif=exif)
    dataset = build_test_dataset(cfg_for(path.parent, ann_file), "mine")
    assert dataset.orientations == Orientations(stored=1)
    np.testing.assert_array_equal(np.asarray(dataset.picture(0)), stored)
    with pytest.raises(DataError, match="because of its EXIF orientation and DATASETS.EXIF apply"):
        build_test_dataset(cfg_for(path.parent, ann_file, "DATASETS.EXIF", "apply"), "mine")


def test_sizes_that_the_file_lacks_are_those_of_images_as_they_are_read(photographs, cfg_for):
    ann_file, _ = photographs
    text = ann_file.read_text().replace('"width": 40, "height": 30', '"width": null')
    ann_file.write_text(text)
    for choice, size in (("auto", (30, 40)), ("apply", (40, 30))):
        cfg = cfg_for(ann_file.parent / "images", ann_file, "DATASETS.EXIF", choice)
        dataset = build_test_dataset(cfg, "mine")
        assert (dataset.images[1].width, dataset.images[1].height) == dataset.picture(1).size == size


def test_more_pixels_than_allowed_are_a_mistake_of_the_data_set(make_dataset, cfg_for):
    ann_file = make_dataset([{"image_id": 1, **BOX}])
    images = ann_file.parent / "images"
    with pytest.raises(DataError, match=r"more than 1199 pixels, the limit that INPUT.MAX_PIXELS sets"):
        build_test_dataset(cfg_for(images, ann_file, "INPUT.MAX_PIXELS", 1199), "mine")
    assert len(build_test_dataset(cfg_for(images, ann_file, "INPUT.MAX_PIXELS", 1200), "mine")) == 1
