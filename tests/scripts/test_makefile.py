"""The targets that the README names."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def make(*arguments: str) -> str:
    """What make prints, as if it were not called from another make that runs these tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(
    ("arguments", "config", "body"),
    [
        ([], "trees", "timm/tf_efficientnet_lite0-FPN"),
        (["BODY=FBNet-mobilenet_v2-FPN"], "mobilenet_v2", "FBNet-mobilenet_v2-FPN"),
        (["BODY=R-18-FPN"], "scratch", "R-18-FPN"),
    ],
)
def test_the_quickstart_of_a_body_has_a_configuration_for_it(
    arguments: list[str], config: str, body: str
) -> None:
    commands = make("--dry-run", "quickstart", *arguments)
    path = f"configs/quickstart/{config}.yaml"
    assert f"--config-file {path}" in commands
    assert f"MODEL.BACKBONE.CONV_BODY {body} " in commands
    assert (ROOT / path).is_file()
    assert "report.html" in commands


@pytest.mark.parametrize(
    "target",
    ["quickstart", "search-demo", "test", "test-slow", "test-all", "test-oldest", "bench", "lint", "format"],
)
def test_every_target_makes_its_environment_first(target: str, tmp_path: Path) -> None:
    first = make("--dry-run", target, f"VENV={tmp_path}/none", "PYTHON=python3.99").splitlines()[0]
    assert first == f"python3.99 scripts/bootstrap.py {tmp_path}/none"


def test_operators_are_built_before_tests_and_again_when_their_sources_change(tmp_path: Path) -> None:
    def steps(*arguments: str) -> list[str]:
        commands = make("--dry-run", "test", f"VENV={tmp_path}", *arguments)
        return re.findall(r"bootstrap\.py|build_ext --inplace|-m pytest", commands)

    assert steps() == ["bootstrap.py", "build_ext --inplace", "-m pytest"]
    for name in (".installed", ".built"):
        (tmp_path / name).touch()
    assert steps() == ["-m pytest"]
    assert steps("--what-if=csrc/ops.h") == ["build_ext --inplace", "-m pytest"]


def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert set(re.findall(r"^  make (\S+)", make("help"), re.MULTILINE)) == set(phony.split())
