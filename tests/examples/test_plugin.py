"""The example plugin, installed as a user would into an environment of its own."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from convbody.detection.data import make_synthetic

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment that sees this one's packages, with the example plugin installed by pip."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    site = next(folder.glob("lib/python*/site-packages"))
    outer = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})" for path in outer] + [str(ROOT)]
    (site / "outer.pth").write_text("\n".join(lines) + "\n")
    python = folder / "bin" / "python"
    source = folder / "source"
    shutil.copytree(ROOT / "examples" / "plugin", source)
    # Built here, where setuptools is recent: an old Python puts an old one into a new environment.
    pip = ["-m", "pip", "--quiet"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    subprocess.run([sys.executable, *wheel], check=True)
    subprocess.run([python, *pip, "install", "--no-deps", *folder.glob("*.whl")], check=True)
    return python


@pytest.mark.slow
def test_an_installed_backbone_trains(environment, tmp_path):
    make_synthetic(tmp_path / "synthetic" / "train", images=4, size=64, seed=0)
    make_synthetic(tmp_path / "synthetic" / "test", images=2, size=64, seed=1)
    command = [environment, ROOT / "tools" / "train_net.py"]
    command += ["--config-file", ROOT / "configs" / "synthetic" / "faster_rcnn.yaml"]
    command += ["MODEL.BACKBONE.CONV_BODY", "TinyNet-FPN", "MODEL.TINYNET.WIDTHS", "(8, 8, 16, 16)"]
    command += ["SOLVER.MAX_ITER", "2", "OUTPUT_DIR", tmp_path / "run"]
    env = {**os.environ, "CONVBODY_DATASETS": str(tmp_path)}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["iteration"] == 2


@pytest.mark.slow
def test_an_installed_backbone_is_listed_and_keeps_the_contract(environment):
    listed = subprocess.run(
        [environment, ROOT / "tools" / "list_backbones.py", "TinyNet*"], capture_output=True, text=True
    )
    assert listed.returncode == 0, listed.stderr
    assert "TinyNet" in listed.stdout and "convbody_tinynet" in listed.stdout
    check = "from backbones import assert_backbone_contract; assert_backbone_contract('TinyNet-FPN')"
    # The contract's two-process clause starts processes, which need a module to import.
    script = environment.parent / "contract.py"
    script.write_text(f"if __name__ == '__main__':\n    {check}\n")
    done = subprocess.run([environment, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
