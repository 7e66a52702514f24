import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def prepare(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CONVBODY_DATASETS": str(root), "PIP_NO_INDEX": "1"}
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
    assert done.returncode == 2 and "{trees,synthetic,list}" in done.stderr
