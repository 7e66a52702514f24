"""The conversion program as a user runs it."""

import subprocess
import sys
from pathlib import Path

from registry import load_cfg

ROOT = Path(__file__).resolve().parents[2]


def convert_config(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "convert_config.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_config_goes_to_stdout_or_a_file_and_the_list_to_stderr(tmp_path):
    source, output = tmp_path / "theirs.yaml", tmp_path / "ours.yaml"
    source.write_text("MODEL: {RESNETS: {DEPTH: 101}}\nVIS_PERIOD: 7\n")
    printed, written = convert_config(source), convert_config(source, "--output", output)
    assert (printed.returncode, written.returncode, written.stdout) == (0, 0, "")
    assert printed.stdout == output.read_text()
    assert load_cfg(output).MODEL.BACKBONE.CONV_BODY == "R-101-C4"
    assert "no equivalent: VIS_PERIOD = 7" in printed.stderr
    assert printed.stderr == written.stderr


def test_a_mistake_is_one_line_and_exit_status_2(tmp_path):
    done = convert_config(tmp_path / "nowhere.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
