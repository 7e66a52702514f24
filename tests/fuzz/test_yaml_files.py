"""YAML files with any fault of form: the first iteration, or one line."""

from pathlib import Path

import pytest
import torch
from fuzzing import Tally, fuzzed
from hypothesis import given
from hypothesis import strategies as st

from convbody.detection import build_detector
from registry import load_cfg

JUNK = [
    "",
    " ",
    "\t",
    "---",
    "...",
    "- a",
    "a: b",
    "x",
    "{",
    "}",
    "[",
    "]",
    "'",
    '"',
    "# note",
    "&a",
    "*a",
    "<<: *a",
]
JUNK += [
    "!!int x",
    "!!python/name:os.system",
    "? a",
    "|",
    ">",
    "%YAML 9",
    "\ufeff",
    "é",
    "_BASE_: x.yaml",
    "null",
]
JUNK += ["MODEL: {}", "SOLVER: {BASE_LR: 1e-3}", "DATASETS: {CATALOG: {a.b: {}}}", "PLUGINS: []", "SEED: 1"]
VALUES = [
    "null",
    "[]",
    "{}",
    "text",
    "true",
    "2024-01-01",
    "[1, a]",
    "{a: 1}",
    "'64'",
    "(1, 2)",
    "~",
    "1_000",
    ".nan",
]


@st.composite
def edited(draw: st.DrawFn, text: str) -> str:
    """The text with up to three lines edited."""
    lines = text.splitlines()
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        how = draw(st.sampled_from(["remove", "repeat", "insert", "value", "indent", "swap", "append"]))
        if how == "remove" and len(lines) > 1:
            del lines[at]
        elif how == "repeat":
            lines.insert(at, lines[at])
        elif how == "insert":
            lines.insert(at, draw(st.sampled_from(JUNK)))
        elif how == "append":
            lines.append(draw(st.sampled_from(JUNK)))
        elif how == "value":
            lines[at] = lines[at].partition(":")[0] + ": " + draw(st.sampled_from(VALUES))
        elif how == "indent":
            lines[at] = " " * draw(st.integers(1, 4)) + lines[at]
        else:
            other = draw(st.integers(0, len(lines) - 1))
            lines[at], lines[other] = lines[other], lines[at]
    return draw(st.sampled_from(["\n", "\n", "\r\n"])).join(lines)


@pytest.mark.slow
def test_any_yaml_file_trains_or_is_refused(small_yaml: str, tmp_path: Path) -> None:
    image = torch.rand(3, 64, 64)
    target = {
        "boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, 64, 64, dtype=torch.uint8),
    }
    tally = Tally()

    def iterate() -> None:
        losses = build_detector(load_cfg(tmp_path / "a.yaml")).train()([image], [dict(target)])
        assert all(torch.isfinite(loss) for loss in losses.values())

    @fuzzed
    @given(edited(small_yaml))
    def fuzz(text: str) -> None:
        (tmp_path / "a.yaml").write_text(text, encoding="utf-8", newline="")
        tally.run(iterate)

    fuzz()
    tally.check()
