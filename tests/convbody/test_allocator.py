"""malloc keeps freed memory where it is glibc's, and nothing fails where it is not."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from convbody import allocator, cli

ROOT = Path(__file__).resolve().parents[2]
FAULTS = """
import resource, sys
from convbody import cli
{imports}

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        {block}  # freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
cli.parse(cli.common_parser(None), sys.argv[1:])
for _ in range(8):  # aligned blocks are a little larger than what the first ones leave when they are freed
    faults()
print(before, faults())
"""
BYTES = FAULTS.format(imports="", block="bytearray(64 << 20)")
TENSORS = FAULTS.format(imports="import torch", block="torch.ones(16 << 20)")


def page_faults(program: str, *arguments: str) -> tuple[int, int]:
    """Page faults of 64 MiB, taken four times in a process of its own, before and after a program's start."""
    command = [sys.executable, "-c", program, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(int, result.stdout.split())
    return before, after


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
@pytest.mark.parametrize("program", [BYTES, pytest.param(TENSORS, marks=pytest.mark.slow)])
def test_freed_memory_is_used_again_after_a_programs_start(program):
    before, after = page_faults(program)
    assert after < before / 10
    before, after = page_faults(program, "--no-tune-malloc")
    assert after > before / 2


def test_a_program_is_tuned_unless_told_otherwise(monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: calls.append("tuned"))
    parser = cli.common_parser(None)
    cli.parse(parser, ["--no-tune-malloc"])
    assert calls == []
    cli.parse(parser, [])
    assert calls == ["tuned"]


class Libc:
    """A C library whose malloc takes no mmap threshold above ``largest``; without it, no such options."""

    def __init__(self, largest: int | None = None) -> None:
        self.options: dict[int, int] = {}
        self.largest = largest
        if largest is not None:
            self.mallopt = self._mallopt

    def _mallopt(self, option: int, value: int) -> int:
        if option == -3 and value > self.largest:
            return 0
        self.options[option] = value
        return 1


@pytest.mark.parametrize("largest", [1 << 31, 32 << 20])
def test_the_largest_threshold_that_glibc_takes_is_set(monkeypatch, largest):
    libc = Libc(largest)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: libc)
    assert allocator.keep_freed_memory()
    assert libc.options[-3] == min(largest, 1 << 30)
    assert all(32 << 20 <= value < 1 << 31 for value in libc.options.values()) and len(libc.options) == 3


def test_another_malloc_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: Libc())
    monkeypatch.setattr(sys, "platform", "linux")
    assert not allocator.keep_freed_memory()
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("no glibc there"))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()
