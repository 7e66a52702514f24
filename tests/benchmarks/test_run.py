"""benchmarks/run.py finds and starts every benchmark; what they save says what was measured."""

import csv
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import measure
import pytest
import record
import run
import torch

ROOT = Path(__file__).parents[2]
ROUNDS = [{"a": {"cpu": 4.0, "wall": 5.0}, "b<": {"cpu": 2.0, "wall": 5.0}}] * 2


def start(*words):
    command = [sys.executable, "benchmarks/run.py", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_without_a_name_every_benchmark_is_listed_with_what_it_measures():
    listed = start().stdout
    assert set(run.ALL) == set(run.QUICK) <= set(run.names())
    for name, what in run.names().items():
        assert what and f"{name} " in listed and what in listed


def test_a_name_runs_that_benchmark_with_its_arguments_and_hands_on_its_status():
    assert "--memory-format" in start("inference", "--help").stdout
    assert start("inference", "--no-such-option").returncode == 2


def test_an_unknown_name_is_an_error_that_lists_the_names():
    result = start("nothing")
    assert result.returncode == 2 and "no benchmark 'nothing'; use all, activation_" in result.stderr


def test_what_is_saved(tmp_path, capsys):
    text = record.table(ROUNDS, "a", {"cpu": "CPU s"})
    assert text.splitlines()[-1] == "| b< | 2.00 (2.00 to 2.00) | 2.00 (2.00 to 2.00) |"
    record.save(tmp_path, "it", text, ROUNDS, record.bars(ROUNDS, "cpu", "a & b"), ["torch"])
    assert (tmp_path / "it.md").read_text().startswith(capsys.readouterr().out.strip()[:80])
    assert f"torch {torch.__version__}".partition("+")[0] in (tmp_path / "it.md").read_text()
    rows = list(csv.DictReader((tmp_path / "it.csv").open()))
    assert len(rows) == 8
    assert rows[-2] == {"round": "2", "implementation": "b<", "quantity": "cpu", "value": "2.0"}
    bars = [e for e in ElementTree.parse(tmp_path / "it.svg").iter() if e.get("fill") == "#1f5fbf"]
    widths = [float(bar.get("width")) for bar in bars]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.01)


def test_bytes_kept_for_the_backward_pass():
    net = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Sigmoid(), torch.nn.Linear(3, 1))
    with measure.saved_for_backward(net) as saved:
        out = net(torch.rand(2, 5))
    assert out.requires_grad
    # Two inputs of linear layers; the second is the output of the sigmoid, which keeps it, too.
    assert saved.distinct == 4 * (2 * 5 + 2 * 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inference", "training_step"])
def test_both_sides_are_the_same_network(name, tmp_path):
    assert run.run(name, [*run.QUICK[name].split(), "--output", str(tmp_path)]) == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".csv", ".svg"}
