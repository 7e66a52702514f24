"""The lanes of the GPU check: a crash, a hang or an unusable GPU costs one check."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

GPU = Path(__file__).parents[2] / "scripts" / "gpu"
PART = """
import os, signal, sys, time
from lanes import Check, run_lanes
from rows import arguments

def fine(rows): rows.add("fine", True, float("nan"), "m")
def wrong(rows): rows.add("wrong", False)
def raises(rows): raise ValueError("no")
def refused(rows):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")
def after(rows): rows.add("process", None, os.getpid())
def crashes(rows):
    rows.add("before the crash", True)
    os.kill(os.getpid(), signal.SIGSEGV)
def hangs(rows): time.sleep(60)
def leaves(rows): sys.exit(5)

LANES = {lanes}
LANES = {{name: [Check(c.__name__, c, 0.5) for c in checks] for name, checks in LANES.items()}}
sys.exit(run_lanes(arguments(__doc__), LANES, side_by_side=2))
"""


@pytest.fixture
def part(tmp_path):
    """Runs a part of these lanes; its exit status and rows by name."""

    def run(lanes, **environment):
        for name in ("lanes.py", "rows.py"):
            shutil.copy(GPU / name, tmp_path)
        (tmp_path / "part.py").write_text(textwrap.dedent(PART).format(lanes=lanes))
        command = [sys.executable, str(tmp_path / "part.py"), "--json", str(tmp_path / "out.json")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment or None)
        return done.returncode, json.loads((tmp_path / "out.json").read_text())["rows"]

    return run


def test_checks_that_are_right_end_with_zero(part):
    status, rows = part("{'a': [fine, after], 'b': [fine]}")
    assert status == 0
    assert sorted(row["name"] for row in rows) == ["fine", "fine", "process"]
    assert {row["value"] for row in rows if row["name"] == "fine"} == {"nan"}  # JSON has no NaN


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        ("raises", "ValueError: no"),
        ("refused", "CUDA error: an illegal memory access"),
        ("crashes", "was ended by SIGSEGV"),
        ("hangs", "took longer than 0 s"),
        ("leaves", "ended with status 5"),
    ],
)
def test_a_check_that_goes_wrong_costs_itself_alone(part, check, reason):
    status, rows = part(f"{{'a': [fine, {check}, after, {check}]}}")
    assert status == 1
    failed = [row for row in rows if row["ok"] is False]
    assert [row["name"] for row in failed] == [check, check]
    assert all(reason in row["detail"] for row in failed)
    names = [row["name"] for row in rows if row["name"] != "before the crash"]
    assert names == ["fine", check, "process", check]


def test_the_gpu_that_refuses_is_left_for_a_new_process(part):
    _, rows = part("{'a': [after, raises, after, refused, after]}")
    processes = [row["value"] for row in rows if row["name"] == "process"]
    assert processes[0] == processes[1] != processes[2]


def test_no_check_begins_when_the_time_is_up(part):
    status, rows = part("{'a': [fine, fine]}", GPU_CHECK_SECONDS="1")
    assert status == 1, "what was not checked is no success"
    assert [row["missed"] for row in rows] == [True, True] and "time of this part is up" in rows[0]["detail"]


def test_a_lane_that_cannot_begin_is_a_failure(part):
    status, rows = part("{'a': [fine]} if 'GPU_CHECK_LANE' not in os.environ else sys.exit(7)")
    assert status == 1
    assert [(row["name"], row["ok"]) for row in rows] == [("a", False)]
    assert rows[0]["detail"] == "the process ended with status 7 before its first check"
