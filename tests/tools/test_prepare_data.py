import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def prepare(root: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CONVBODY_DATASETS": str(root),
        "PIP_NO_INDEX": "1",
    } | variables
    command = [sys.executable, str(ROOT / "tools" / "prepare_data.py"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_synthetic_data_set_is_made_where_the_catalog_looks(tmp_path: Path):
    done = prepare(tmp_path, "synthetic", "--images", "4", "--size", "48")
    assert done.returncode == 0, done.stderr
    train = json.loads((tmp_path / "synthetic/train/annotations.json").read_text())
    test = json.loads((tmp_path / "synthetic/test/annotations.json").read_text())
    assert [len(train["images"]), len(test["images"])] == [4, 1]
    assert train["images"][0]["width"] == 48
    first = (tmp_path / "synthetic/train/images/000001.png").read_bytes()
    assert first != (tmp_path / "synthetic/test/images/000001.png").read_bytes()
    listed = prepare(tmp_path, "list").stdout
    assert "present  synthetic_train" in listed and "present  synthetic_test" in listed
    assert "missing  coco_2017_train" in listed


def test_without_a_registry_it_ends_in_a_sentence(tmp_path: Path):
    done = prepare(tmp_path, "trees")
    assert done.returncode == 2
    assert done.stderr.startswith("error: pip cannot download ") and done.stderr.count("\n") == 1
    assert f"put it in {tmp_path / 'downloads'}" in done.stderr


def test_the_command_is_asked_for(tmp_path: Path):
    done = prepare(tmp_path)
    assert done.returncode == 2 and "{trees,synthetic," in done.stderr


@pytest.mark.parametrize(("command", "client"), [("fashion-mnist", "apt-get"), ("digits", "npm")])
@pytest.mark.parametrize("there", [False, True])
def test_labelled_images_without_a_registry_end_in_a_sentence(
    tmp_path: Path, command: str, client: str, there: bool
):
    """Whether the client is missing, or cannot reach its registry."""
    programs = tmp_path / "bin"
    programs.mkdir()
    if there:
        (programs / client).write_text("#!/bin/sh\necho 'E: cannot reach it' >&2; exit 1\n")
        (programs / client).chmod(0o755)
    done = prepare(tmp_path, command, PATH=f"{programs}:/nowhere" if not there else f"{programs}:/bin")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert ("cannot reach it" if there else f"no program {client}") in done.stderr
    assert str(tmp_path / "downloads") in done.stderr


def test_labelled_images_are_listed(tmp_path: Path):
    listed = prepare(tmp_path, "list").stdout
    assert "missing  fashion_mnist_train" in listed and "missing  imagenet_val" in listed
