"""The training program as a user runs it, mistakes included."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def train_net(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config-file", "nowhere.yaml"], ["nowhere.yaml"]),
        (["SOLVER.BASE_LRR", "1"], ["SOLVER.BASE_LRR", "SOLVER.BASE_LR", "command line"]),
        (["MODEL.BACKBONE.CONV_BODY", "R-50-FPM"], ["FPM", "FPN", "MODEL.BACKBONE.CONV_BODY"]),
        (["--plugin", "no_such_plugin"], ["no_such_plugin"]),
        (["SOLVER.MAX_ITER"], ["SOLVER.MAX_ITER"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(arguments, words):
    done = train_net(*arguments)
    assert done.returncode == 2
    assert all(word in done.stderr for word in words), done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.stderr


def test_missing_data_is_said_before_anything_is_built(tmp_path):
    (tmp_path / "a.yaml").write_text(
        f"OUTPUT_DIR: {tmp_path}/run\n"
        "DATASETS:\n  TRAIN: [mine]\n  CATALOG:\n    mine: {image_dir: /no/images, ann_file: /no/file.json}\n"
    )
    done = train_net("--config-file", tmp_path / "a.yaml")
    assert done.returncode == 2
    assert "/no/" in done.stderr and "Traceback" not in done.stderr


def test_help_shows_the_ways_to_call_it():
    done = train_net("--help")
    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--config-file", "--resume", "--eval-only", "--plugin"))
