"""Ranges and lengths of config values."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import ConfigError, load_cfg
from registry.allowed import above, at_least, at_most, between, each

NUMBERS = st.floats(allow_nan=True) | st.integers()


@given(NUMBERS, st.integers(-5, 5))
def test_ranges_hold_what_they_say(value: float, bound: int) -> None:
    assert at_least(bound).holds(value) == (math.isfinite(value) and value >= bound)
    assert at_most(bound).holds(value) == (math.isfinite(value) and value <= bound)
    assert above(bound).holds(value) == (math.isfinite(value) and value > bound)
    assert between(bound, bound + 2).holds(value) == (bound <= value <= bound + 2)


@given(st.lists(st.integers(-2, 2), max_size=4))
def test_sequences(values: list[int]) -> None:
    positive = all(value > 0 for value in values)
    assert each(above(0)).holds(values) == (positive and len(values) > 0)
    assert each(above(0), 2).holds(values) == (positive and len(values) == 2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.BASE_LR", -0.1),
        ("SOLVER.BASE_LR", float("nan")),
        ("SOLVER.MOMENTUM", -0.5),
        ("SOLVER.BETAS", [1.5, 0.9]),
        ("SOLVER.BETAS", [0.9]),
        ("SEED", 2**70),
        ("DATALOADER.NUM_WORKERS", -1),
        ("INPUT.MIN_SIZE_RANGE_TRAIN", [64]),
        ("INPUT.PIXEL_STD", [0.0, 0.0, 0.0]),
        ("INPUT.PIXEL_MEAN", [0.5, 0.5]),
        ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 0),
        ("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 0),
        ("MODEL.RPN.ASPECT_RATIOS", [0.0]),
        ("MODEL.RPN.ASPECT_RATIOS", []),
        ("MODEL.ROI_HEADS.BBOX_REG_WEIGHTS", [10.0, 10.0]),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_line(tmp_path: Path, key: str, value: object) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"# first\n{key}: {value}\n".replace("nan", ".nan"))
    with pytest.raises(ConfigError, match=rf"{key} \(set in .*a\.yaml:2\) takes"):
        load_cfg(file)
    with pytest.raises(ConfigError, match=rf"{key} \(set on the command line\) takes"):
        load_cfg(None, [key, value])
