"""The script behind every `make` target, and the check of torch and torchvision at its end."""

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **environment}
    )


def test_an_environment_of_an_old_python_is_refused_with_a_remedy(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        "#!/bin/sh\necho 3 9\n"
    )  # what an old Python would answer to the question for its version
    python.chmod(0o755)

    result = run("bootstrap.py", str(tmp_path))

    assert result.returncode == 2
    assert result.stderr.startswith(
        f"error: convbody needs Python 3.10 or newer, and {python} is Python 3.9."
    )
    assert "make PYTHON=" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_missing_venv_module_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "venv.py").write_text("raise SystemExit('No module named ensurepip')")

    result = run("bootstrap.py", str(tmp_path / "new"), PYTHONPATH=str(tmp_path))

    assert result.returncode == 2
    assert "error: Python's venv module did not work" in result.stderr
    assert "python3-venv" in result.stderr


def test_the_installed_pair_passes() -> None:
    result = run("check_torch.py")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_torchvision_without_operators_stops_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text(  # built for another torch: imports, but has no operators
        "class ops:\n"
        "    def nms(*args):\n"
        "        raise RuntimeError('operator torchvision::nms does not exist\\nmore')\n"
    )

    result = run("check_torch.py", PYTHONPATH=str(tmp_path))

    assert result.returncode == 2
    assert result.stderr.startswith("error: torch ")
    assert "(RuntimeError: operator torchvision::nms does not exist)" in result.stderr
    assert "pip install --force-reinstall torch torchvision" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_missing_torch_stops_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch here')")

    result = run("check_torch.py", PYTHONPATH=str(tmp_path))

    assert result.returncode == 2
    assert "ModuleNotFoundError: no torch here" in result.stderr
