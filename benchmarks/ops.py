"""Deformable convolution on the CPU: ours, torchvision's, and a plain convolution of the same shape.

    python benchmarks/ops.py [--rounds 5] [--threads 1 2] [--types float32 bfloat16]
        [--output FOLDER] [--quick]

Shapes are those of the 3x3 convolutions of R-50's last three stages at 800 x 1344, batch 2, modulated. All
are called as a layer calls them, through autograd. Tensors of ours and of the plain convolution are
channels_last, those of torchvision contiguous, which it would make them. In every round each implementation
takes its turn, so that what else the machine does meets all alike, and ratios are those of one round. CPU
time (user and system, of all threads) is less at the mercy of other programs than wall time, but counts
threads that wait in a loop. Of the rounds the median is given with the quartiles. Extra memory is the peak
above what was there before and what is returned. Prints a table and saves it as ops.md and ops.csv.
torchvision's operator has no bfloat16 on the CPU: a dash.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from backbones.ops import deform_conv2d, status

SHAPES = ((128, 100, 168), (256, 50, 84), (512, 25, 42))
QUICK_SHAPES = ((16, 6, 7), (32, 5, 4))
OURS, TORCHVISION, DENSE = "ours", "torchvision", "plain convolution"
PASSES = ("forward", "forward+backward")
VECTOR_SETS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16")
OPENMP = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
TYPES = ("float32", "bfloat16")
CASE = ("channels", "height", "width", "type", "threads", "pass", "implementation")
MEASURES = ("wall ms", "CPU ms", "wall / ours", "CPU / ours")
QUARTILES = ("", ", lower quartile", ", upper quartile")
COLUMNS = (*CASE, *(f"{measure}{which}" for measure in MEASURES for which in QUARTILES), "extra MiB")
Row = dict[str, Any]
Call = Callable[[], tuple[Tensor, ...]]


def implementations(shape: tuple[int, int, int], dtype: torch.dtype) -> dict[str, dict[str, Call]]:
    """By name and pass, functions that return what they compute; torchvision's where it has the type."""
    channels, height, width = shape
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator).to(dtype)

    input, grad = draw(2, channels, height, width), draw(2, channels, height, width)
    offset, mask = draw(2, 18, height, width), draw(2, 9, height, width).sigmoid()
    weight = draw(channels, channels, 3, 3) / (9 * channels) ** 0.5

    def calls(
        function: Callable[..., Tensor], leaves: list[Tensor], layout: torch.memory_format
    ) -> dict[str, Call]:
        leaves = [leaf.contiguous(memory_format=layout).requires_grad_() for leaf in leaves]
        out_grad = grad.contiguous(memory_format=layout)

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (function(*leaves),)

        def both() -> tuple[Tensor, ...]:
            out = function(*leaves)
            return (out.detach(), *torch.autograd.grad(out, leaves, out_grad))

        return dict(zip(PASSES, (forward, both), strict=True))

    def ours(input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return deform_conv2d(input, offset, weight, padding=1, mask=mask)

    def theirs(input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return torchvision.ops.deform_conv2d(input, offset, weight, padding=1, mask=mask)

    deformable = [input, weight, offset, mask]
    found = {OURS: calls(ours, deformable, torch.channels_last)}
    if dtype == torch.float32:
        found[TORCHVISION] = calls(theirs, deformable, torch.contiguous_format)
    found[DENSE] = calls(lambda x, w: F.conv2d(x, w, padding=1), [input, weight], torch.channels_last)
    return found


def extra_mebibytes(call: Call) -> float | None:
    """Peak of a call's memory beyond what it returns; None where the system is not Linux, which tells.

    Call ``return_freed_memory`` before, or memory that was freed and kept is used again unseen.
    """

    def kibibytes(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))

    if not os.access("/proc/self/clear_refs", os.W_OK):
        return None
    before = kibibytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again from VmRSS
    results = call()
    returned = sum(result.numel() * result.itemsize for result in results)
    return round(max(0.0, (kibibytes("VmHWM") - before) / 2**10 - returned / 2**20), 1)


def return_freed_memory() -> None:
    """Gives back what was freed, and from now on what is freed of 64 KiB and more at once (glibc)."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD
        libc.malloc_trim(0)


def measure_shape(shape: tuple[int, int, int], type_name: str, threads: int, rounds: int) -> list[Row]:
    """Times of one shape: a row for each pass and implementation."""
    torch.set_num_threads(threads)
    found = implementations(shape, getattr(torch, type_name))
    rows = []
    for which in PASSES:
        for calls in found.values():
            calls[which]()
        times = [
            {name: measure.seconds(calls[which]) for name, calls in found.items()} for _ in range(rounds)
        ]
        for name in (OURS, TORCHVISION, DENSE):
            numbers: list[float | None] = [None] * 12
            if name in found:
                kinds = [[taken[name][kind] * 1e3 for taken in times] for kind in (0, 1)]
                kinds += [[taken[name][kind] / taken[OURS][kind] for taken in times] for kind in (0, 1)]
                numbers = [round(number, 4) for kind in kinds for number in measure.spread(kind)]
            values = [*shape, type_name, threads, which, name, *numbers, None]
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def add_memory(rows: list[Row]) -> None:
    """Fills in the peaks, after all times are taken: memory that is not kept costs time."""
    cases: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        shape = (row["channels"], row["height"], row["width"])
        cases.setdefault((shape, row["type"], row["threads"]), []).append(row)
    for (shape, type_name, threads), of_case in cases.items():
        torch.set_num_threads(threads)
        found = implementations(shape, getattr(torch, type_name))
        for row in of_case:
            if calls := found.get(row["implementation"]):
                return_freed_memory()
                row["extra MiB"] = extra_mebibytes(calls[row["pass"]])


def processor() -> str:
    """The CPU's name and its vector instructions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = dict([part.strip() for part in line.split(":", 1)] for line in lines if ":" in line)
    sets = [s for s in VECTOR_SETS if s in fields.get("flags", "").split()]
    name = fields.get("model name", platform.processor() or platform.machine())
    return f"{name}, {os.cpu_count()} cores, {' '.join(sets) or 'instruction sets unknown'}"


def environment() -> str:
    """What the figures depend on."""
    variables = [f"{name}={os.environ[name]}" for name in OPENMP if name in os.environ]
    command = shlex.join([*variables, "python", "benchmarks/ops.py", *sys.argv[1:]])
    return (
        f"`{command}`, {time.strftime('%Y-%m-%d')}.\n"
        f"{processor()}; {platform.system()}, Python {platform.python_version()},\n"
        f"torch {torch.__version__}, torchvision {torchvision.__version__}. Ours is {status()['cpu']}.\n"
    )


def table(rows: list[Row]) -> str:
    """The rows as a table for people."""
    titles = ["C x H x W", "type", "threads", "pass", "implementation"]
    titles += ["wall ms", "CPU ms", "wall / ours", "CPU / ours", "extra MiB"]
    lines = [" | ".join(titles), " | ".join("---" for _ in titles)]
    for row in rows:
        cells = [f"{row['channels']} x {row['height']} x {row['width']}"]
        cells += [str(row[title]) for title in titles[1:5]]
        cells += [
            spread_cell(row, title, digits) for title, digits in zip(MEASURES, (1, 1, 2, 2), strict=True)
        ]
        cells.append("-" if row["extra MiB"] is None else f"{row['extra MiB']:.1f}")
        lines.append(" | ".join(cells))
    return "".join(f"| {line} |\n" for line in lines)


def spread_cell(row: Row, title: str, digits: int) -> str:
    """Median and quartiles; a dash where nothing was measured."""
    middle, low, high = (row[f"{title}{which}"] for which in QUARTILES)
    return "-" if middle is None else f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def save(rows: list[Row], folder: Path) -> None:
    """ops.md, which names the environment, and ops.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ops.md").write_text(f"{environment()}\n{table(rows)}")
    with (folder / "ops.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each implementation, 2 at least (5)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of torch (1 2)")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES, help=f"({' '.join(TYPES)})")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that it runs")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    rows = [
        row
        for shape in (QUICK_SHAPES if args.quick else SHAPES)
        for type_name in args.types
        for threads in args.threads
        for row in measure_shape(shape, type_name, threads, args.rounds)
    ]
    add_memory(rows)
    save(rows, args.output)
    print((args.output / "ops.md").read_text(), end="")


if __name__ == "__main__":
    main()
