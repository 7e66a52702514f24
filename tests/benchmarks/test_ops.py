"""benchmarks/ops.py on tiny shapes: what it compares is the same, and what it measures is there."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import ops
import pytest
import torch


def test_ours_and_torchvisions_compute_the_same():
    found = ops.implementations((16, 6, 7), torch.float32)
    for which in ops.PASSES:
        ours, theirs, plain = (found[name][which]() for name in (ops.OURS, ops.TORCHVISION, ops.DENSE))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        assert plain[0].shape == ours[0].shape
        assert ours[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux tells the peak of memory")
def test_extra_memory_is_what_a_call_takes_beyond_its_result():
    """In a process of its own: another test may have told malloc to keep what is freed."""
    program = """if True:
        import ops, torch
        call = lambda: (torch.ones(24 << 18)[: 8 << 18].clone(),)
        call()
        ops.return_freed_memory()
        print(ops.extra_mebibytes(call))
    """
    folder = Path(ops.__file__).parent
    path = os.pathsep.join([str(folder), str(folder.parent)])
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert 23 < float(done.stdout) < 26, done.stderr


def test_a_table_with_every_case(tmp_path, monkeypatch, capsys):
    arguments = ["--quick", "--rounds", "2", "--threads", "1", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["ops.py", *arguments])
    monkeypatch.setattr(ops, "return_freed_memory", lambda: None)  # it is for good
    ops.main()
    with (tmp_path / "ops.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(ops.QUICK_SHAPES) * len(ops.TYPES) * len(ops.PASSES) * 3
    for row in rows:
        missing = row["implementation"] == ops.TORCHVISION and row["type"] == "bfloat16"
        assert all((row[name] == "") == missing for name in ops.COLUMNS[len(ops.CASE) : -1])
        if not missing:
            assert 0 < float(row["CPU ms, lower quartile"]) <= float(row["CPU ms"])
            assert row["implementation"] != ops.OURS or row["wall / ours"] == row["CPU / ours"] == "1.0"
    text = (tmp_path / "ops.md").read_text()
    assert capsys.readouterr().out == text
    assert f"torch {torch.__version__}" in text
    assert sum(line.startswith("| ") for line in text.splitlines()) == len(rows) + 2
    assert "| 16 x 6 x 7 | bfloat16 | 1 | forward | torchvision | - | - | - | - | - |" in text
