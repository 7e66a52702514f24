"""What training did with orientations is recorded, and testing and prediction do the same."""

from __future__ import annotations

import pytest

from convbody.data.exif_choice import (
    EXIF,
    Orientations,
    exif_note,
    for_prediction,
    for_testing,
    unannotated_note,
)
from convbody.data.images import ImageLook
from registry import load_cfg


def counted(choice: str, *looks: tuple[int, int, tuple[int, int]]) -> Orientations:
    seen = Orientations()
    for orientation, applied, size in looks:
        seen.add(ImageLook(size, orientation, applied), choice)
    return seen


def test_images_are_counted_by_what_became_of_them():
    seen = counted(
        "auto", (1, 1, (4, 3)), (6, 6, (4, 3)), (8, 1, (4, 3)), (3, 1, (4, 3)), (2, 1, (4, 3)), (6, 1, (4, 4))
    )
    assert seen == Orientations(turned=1, stored=1, untold=3)
    assert str(seen).startswith("images with an EXIF orientation: 1 are turned by it, 1 are read as they are")
    assert "DATASETS.EXIF apply" in str(seen)
    assert counted("ignore", (3, 1, (4, 3))) == Orientations(stored=1)
    assert counted("apply", (3, 3, (4, 3))) == Orientations(turned=1)
    assert str(counted("auto", (1, 1, (4, 3)))) == ""


@pytest.mark.parametrize(
    ("trained", "seen", "tests", "predicts"),
    [
        ("apply", Orientations(), "apply", "apply"),
        ("ignore", Orientations(), "ignore", "ignore"),
        ("auto", Orientations(), "auto", "apply"),
        ("auto", Orientations(turned=2, stored=1), "auto", "apply"),
        ("auto", Orientations(turned=1, untold=9), "auto", "apply"),
        ("auto", Orientations(turned=1, stored=1), "auto", "ignore"),
        ("auto", Orientations(untold=1), "auto", "ignore"),
    ],
)
def test_auto_becomes_what_training_did(trained: str, seen: Orientations, tests: str, predicts: str):
    notes = {EXIF: exif_note(trained, seen)}
    cfg = load_cfg(None)
    assert tests == for_testing(cfg, notes).DATASETS.EXIF
    assert for_prediction(cfg, notes).exif == predicts
    assert cfg.DATASETS.EXIF == "auto", "the config given is left as it is"


def test_the_config_counts_before_the_record():
    cfg = load_cfg(None, ["DATASETS.EXIF", "ignore", "INPUT.MAX_PIXELS", 7])
    notes = {EXIF: exif_note("apply", Orientations())}
    assert for_testing(cfg, notes).DATASETS.EXIF == "ignore"
    assert for_prediction(cfg, notes).exif == "ignore" and for_prediction(cfg, notes).max_pixels == 7


@pytest.mark.parametrize("record", [[], ["auto"], ["turn", "apply"], ["auto", "auto"], [None, None]])
def test_without_a_sound_record_prediction_turns_images(record: list[str | None]):
    for notes in ({}, {EXIF: record}):
        assert for_testing(load_cfg(None), notes).DATASETS.EXIF == "auto"
        assert for_prediction(load_cfg(None), notes).exif == "apply"


def test_without_annotations_auto_leaves_images_as_they_are_stored():
    assert unannotated_note("auto") == unannotated_note("ignore") == ["ignore", "ignore"]
    assert unannotated_note("apply") == ["apply", "apply"]
