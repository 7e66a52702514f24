"""benchmarks/heads.py on tiny shapes: what it compares is the same, and every case has a row."""

import sys

import heads
import torch
import torchvision.ops

from backbones import ops


def test_ours_and_torchvisions_compute_the_same():
    for call in heads.cases(quick=True).values():
        torch.testing.assert_close(call(ops), call(torchvision.ops), atol=1e-4, rtol=1e-4)


def test_a_table_with_every_case(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["heads.py", "--quick", "--rounds", "2", "--threads", "1"])
    threads = torch.get_num_threads()
    heads.main()
    torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert ", torch " in lines[0] and ", torchvision " in lines[0]
    assert len(lines) == 4 + len(heads.cases(quick=True))
    assert all(float(line.split("|")[3].split()[0]) > 0 for line in lines[4:])
