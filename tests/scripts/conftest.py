"""A checkout in which the GPU check is real, and the parts, torch and the operators are stand-ins."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("build", "operators", "sanitizer", "training", "benchmarks")
PASSES = "rows.add('two', True, 2.0, 'm')"
PART = """
import json, os, pathlib, subprocess, sys, time
from rows import Rows, arguments
args = arguments(__doc__)
rows = Rows(args.json)
{body}
sys.exit(rows.status())
"""
TORCH = """
from types import SimpleNamespace as Space
properties = Space(name="Fake", major=9, minor=0, total_memory=1 << 37, multi_processor_count=132)
version = Space(cuda="13.0")
cuda = Space(
    is_available=lambda: {available}, get_device_properties=lambda _: properties, device_count=lambda: 1,
    nccl=Space(version=lambda: (2, 28)),
)
backends = Space(cudnn=Space(version=lambda: 91900))
"""


class Tree:
    """A checkout; `run` starts its scripts/gpu_check.sh."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.out = root / "out"
        shutil.copytree(ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        (root / "backbones" / "ops").mkdir(parents=True)
        self.torch(available=True)
        for name in PARTS:
            self.part(name, PASSES)

    def torch(self, *, available: bool) -> None:
        """A torch that imports at once."""
        (self.root / "torch.py").write_text(TORCH.format(available=available))

    def part(self, name: str, body: str) -> None:
        """Makes a part of the lines that it runs."""
        (self.root / "scripts" / "gpu" / f"{name}.py").write_text(PART.format(body=body))

    def real_part(self, name: str) -> None:
        """Brings back the part that `part` replaced."""
        shutil.copy(ROOT / "scripts" / "gpu" / f"{name}.py", self.root / "scripts" / "gpu")

    def operators(self) -> None:
        """Files in the place of the operators."""
        for name in ("_C", "_C_cuda"):
            (self.root / "backbones" / "ops" / f"{name}.abi3.so").write_text("from before")

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        """Starts the check."""
        env = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": "", **environment}
        command = [str(self.root / "scripts" / "gpu_check.sh"), "--out", str(self.out), *arguments]
        pipe, error = subprocess.PIPE, subprocess.STDOUT
        return subprocess.Popen(command, env=env, cwd=self.root.parent, text=True, stdout=pipe, stderr=error)

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Exit status and output of the check."""
        with self.start(*arguments, **environment) as process:
            output, _ = process.communicate(timeout=120)
        return process.returncode, output

    @property
    def results(self) -> dict:
        """What gpu_check.json holds."""
        return json.loads((self.out / "gpu_check.json").read_text())

    def states(self) -> dict[str, str]:
        """The state of each part."""
        return {name: part["state"] for name, part in self.results["parts"].items()}

    @property
    def page(self) -> str:
        """gpu_check.md."""
        return (self.out / "gpu_check.md").read_text()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A checkout whose parts all pass."""
    return Tree(tmp_path / "checkout")
