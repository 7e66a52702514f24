"""Times on a GPU by events, on a CPU by its clock; and what the device can do at most."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from exactness import name_of

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import measure

Call = Callable[[int], object]


def times(
    device: torch.device, calls: Mapping[str, Call], *, rounds: int, inner: int
) -> dict[str, list[float]]:
    """Milliseconds of a call, ``rounds`` of each, all in turn, after a warm-up.

    A call gets a number, 0 to ``inner`` - 1; each time is that of these calls together, divided.
    """
    for call in calls.values():
        for number in range(inner):
            call(number)
    taken: dict[str, list[Callable[[], float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            stop = start(device)
            for number in range(inner):
                call(number)
            taken[name].append(stop())
    if device.type == "cuda":
        torch.cuda.synchronize()
    return {name: [read() / inner for read in reads] for name, reads in taken.items()}


def start(device: torch.device) -> Callable[[], Callable[[], float]]:
    """Starts a clock; what is returned stops it, and gives a function that reads the milliseconds later."""
    if device.type != "cuda":
        began = time.perf_counter()

        def ended() -> Callable[[], float]:
            milliseconds = (time.perf_counter() - began) * 1e3
            return lambda: milliseconds

        return ended
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()

    def recorded() -> Callable[[], float]:
        last.record()
        return lambda: first.elapsed_time(last)

    return recorded


def shown(values: Sequence[float]) -> list[float]:
    """Median and quartiles, with four digits."""
    return [float(f"{value:.4g}") for value in measure.spread(values)]


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """How many times longer theirs took, round by round: median and quartiles."""
    return shown([a / b for a, b in zip(theirs, ours, strict=True)])


def peak_mebibytes(device: torch.device, call: Callable[[], object]) -> float | None:
    """What a call allocates at most beyond what was there; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


@dataclass(frozen=True)
class Ceilings:
    """Bytes a second of a copy, read and written; operations a second of a matrix product, by type."""

    bandwidth: float
    products: dict[torch.dtype, float]

    def shares(self, milliseconds: float, *, flops: float, moved: float, dtype: torch.dtype) -> str:
        """What a time is of both ceilings."""
        seconds = milliseconds / 1e3
        return (
            f"{flops / seconds / self.products[dtype]:.0%} of the matrix rate, "
            f"{moved / seconds / self.bandwidth:.0%} of the bandwidth"
        )


@cache
def ceilings(device: torch.device, rehearse: bool) -> Ceilings:
    """Measures them once in a process, on random numbers."""
    size = (1 << 22) if rehearse else (1 << 28)
    bandwidth = 2 * 4 * size / (_median(device, _copy(size, device), 10) / 1e3)
    products: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        if device.type == "cpu" and dtype is torch.float16:
            products[dtype] = products[torch.float32]  # seconds on a CPU
            continue
        side = 256 if rehearse else 4096 if dtype is torch.float32 else 8192
        products[dtype] = 2 * side**3 / (_median(device, _product(side, dtype, device), 10) / 1e3)
    return Ceilings(bandwidth, products)


def _median(device: torch.device, call: Call, rounds: int) -> float:
    return measure.spread(times(device, {"": call}, rounds=rounds, inner=2)[""])[0]


def _copy(size: int, device: torch.device) -> Call:
    source, target = torch.rand(size, device=device), torch.empty(size, device=device)
    return lambda _: target.copy_(source)


def _product(side: int, dtype: torch.dtype, device: torch.device) -> Call:
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return lambda _: a @ b


def ceiling_rows(device: torch.device, rehearse: bool) -> list[tuple[str, float, str]]:
    """Name, value and unit of each."""
    found = ceilings(device, rehearse)
    rows = [("copy within the device, read and written", round(found.bandwidth / 1e12, 3), "TB/s")]
    rows += [
        (f"matrix product {name_of(t)}", round(v / 1e12, 2), "TFLOP/s") for t, v in found.products.items()
    ]
    return rows
