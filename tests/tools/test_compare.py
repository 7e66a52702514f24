"""The program as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = """
MODEL:
  BACKBONE: {CONV_BODY: "R-18", FREEZE_CONV_BODY_AT: 0}
  RESNETS: {STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 8, WIDTH_PER_GROUP: 8}
"""


@pytest.fixture
def compare(tmp_path):
    config = str(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text(SMALL)

    def run(*arguments):
        command = [sys.executable, str(ROOT / "tools" / "compare.py"), "--config-file", config, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    return run


def test_sides_that_part_are_exit_status_1(compare, tmp_path):
    option = ("--against-opt", "MODEL.FROZEN_BN.EPSILON=1e-3", "--html", str(tmp_path / "page.html"))
    done = compare("--against", f"config:{tmp_path}/a.yaml", *option)
    assert done.returncode == 1
    assert "They part in the forward pass: body.stem.bn1 (output)" in done.stdout
    assert "body.stem.bn1" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to do"),
        (("--against", "config:a.yaml", "--against-opt", "SOLVER.MOMENTUM"), "takes KEY=VALUE"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(arguments, message, compare):
    done = compare(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert len(done.stderr.splitlines()) == 1
