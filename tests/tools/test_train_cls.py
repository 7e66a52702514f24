"""The pre-training program as a user runs it, mistakes included."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIGITS = str(ROOT / "configs" / "classification" / "digits_R_20.yaml")


def train_cls(*arguments, **variables):
    command = [sys.executable, str(ROOT / "tools" / "train_cls.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | variables)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["SOLVER.BASE_LRR", "1"], ["SOLVER.BASE_LRR", "SOLVER.BASE_LR", "command line"]),
        (
            ["DATASETS.TRAIN", "['digit_train']"],
            ["'digit_train'", "digits_train", "DATASETS.TRAIN", "command line"],
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(arguments, words, tmp_path):
    done = train_cls("--config-file", DIGITS, "OUTPUT_DIR", tmp_path, "DATASETS.TEST", "()", *arguments)
    assert done.returncode == 2
    assert all(word in done.stderr for word in words), done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.stderr


def test_missing_data_says_how_to_make_it(tmp_path):
    done = train_cls(
        "--config-file", DIGITS, "OUTPUT_DIR", tmp_path, CONVBODY_DATASETS=str(tmp_path / "none")
    )
    assert done.returncode == 2
    first, *findings = done.stderr.splitlines()
    assert first == "error: 2 findings before the first iteration:"
    assert all("tools/prepare_data.py digits" in line for line in findings) and len(findings) == 2
