"""Class names of every script, and names that are hardly text, become labels in letters that there are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convbody.detection.lettering import drawable, font_for, label
from convbody.detection.visualize import draw_detections

SIZE = 12.0


def picture(letter: str) -> bytes:
    return bytes(font_for(letter, SIZE).getmask(letter))


@pytest.mark.parametrize("letter", "aéŁßőжγאعकก中猫の한ሀⴷ€½☃")
def test_letters_of_many_scripts_are_drawn(letter: str):
    assert picture(letter) not in (picture("\ue000"), picture("\uffff")), "a box that stands for no letter"
    assert any(picture(letter))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_any_text_becomes_one_line_that_can_be_drawn(text: str):
    shown = drawable(text)
    shown.encode()
    assert "\n" not in shown and all(c <= "\uffff" for c in shown)
    written, font = label(text, "0.93", SIZE, room=150)
    assert "0.93" in written and font.getlength(written) <= 150


def test_names_are_shortened_and_odd_characters_escaped():
    assert drawable("x" * 50) == "x" * 37 + "..."
    assert drawable("two\nlines") == "two\\nlines"
    assert drawable("\U0001f431 cat") == "□ cat"
    assert drawable("\udce9") == "\\udce9"


@pytest.mark.parametrize("name", ["two\nlines", "猫" * 100, "كلب", "\U0001f431", "", " ", "\0", "\u202e" * 9])
def test_pictures_with_such_names_are_drawn(name: str):
    output = {
        "boxes": torch.tensor([[50.0, 60.0, 150.0, 140.0]]),
        "labels": torch.tensor([2]),
        "scores": torch.tensor([0.9]),
    }
    plain = draw_detections(torch.full((3, 420, 400), 0.5), output, ["other", "\n"])
    drawn = draw_detections(torch.full((3, 420, 400), 0.5), output, ["other", name])
    assert drawn.size == plain.size == (400, 420)
    assert (np.asarray(drawn)[40:60] != 128).any(), "a label over the box"


def test_a_strip_is_not_enlarged_without_end():
    output = {"boxes": torch.tensor([[0.0, 0.0, 50.0, 1.0]]), "scores": torch.tensor([0.9])}
    assert draw_detections(torch.zeros(3, 1, 5000), output, ["a"]).size == (5000, 1)
    assert draw_detections(torch.zeros(3, 10, 1000), output, ["a"]).size == (4000, 40)
