"""How a program ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from registry import ConvbodyError
from registry.program import status_of

ROOT = Path(__file__).resolve().parents[2]


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


def test_the_status_says_how_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(lambda: None) == 0
    assert status_of(lambda: 3) == 3
    assert status_of(raising(ConvbodyError("this\nand\x1b[2Jthat"))) == 2
    assert capsys.readouterr().err == "error: this\\nand\\x1b[2Jthat\n"
    assert status_of(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted by SIGINT\n"


def test_a_bug_keeps_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BrokenPipeError):  # of something else than the standard output
        status_of(raising(BrokenPipeError()))
    with pytest.raises(ZeroDivisionError):
        status_of(raising(ZeroDivisionError()))


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(
    "command", [["-m", "registry", "config"], ["tools/list_backbones.py"], ["tools/prepare_data.py", "list"]]
)
def test_a_listing_whose_reader_has_gone_ends_in_silence(command: list[str], buffered: bool) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    env = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=env, stdout=closed, stderr=subprocess.PIPE, timeout=120
        )
    assert done.stderr == b""
    assert done.returncode == 141
