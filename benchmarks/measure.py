"""What the benchmarks here share: programs in processes of their own, taken in turn, and their spread."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile; of a single value, that value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def quartiles(values: Sequence[float], digits: int = 2) -> str:
    """Median, and the quartiles in brackets."""
    middle, low, high = spread(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Wall time of a call, and CPU time: user and system, of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def run_python(program: str, *arguments: str) -> dict[str, float]:
    """The numbers that a program prints as JSON on its last line, in a Python of its own, on one thread."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, *arguments]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    numbers: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return numbers


def in_turn(programs: Mapping[str, Sequence[str]], rounds: int) -> list[dict[str, dict[str, float]]]:
    """``rounds`` times every program once: name -> its numbers.

    One round before is not counted, unless a single one is asked for, which is no measurement but a trial.
    """
    uncounted = 1 if rounds > 1 else 0
    taken = [
        {name: run_python(*program) for name, program in programs.items()} for _ in range(uncounted + rounds)
    ]
    return taken[uncounted:]


def environment(*packages: str) -> str:
    """The machine and the versions that figures depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    return (
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}, {versions}"
    )


@dataclass
class Saved:
    """Bytes that autograd keeps; memory that is kept twice counts once."""

    distinct: int = 0


@contextmanager
def saved_for_backward(model: nn.Module) -> Iterator[Saved]:
    """Counts what is kept of the forward passes inside, without the weights of ``model``."""
    import torch

    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved, kept = Saved(), {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            if storage.data_ptr() not in kept:
                saved.distinct += storage.nbytes()
            kept[storage.data_ptr()] = tensor  # held, so that no other tensor gets the address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved
