"""Registers, shared memory and spills of every CUDA kernel, for every architecture; needs nvcc, and no GPU.

    python scripts/gpu/kernels.py

Compiles csrc/cuda as setup.py does and prints what the assembler says. Shared memory that a launch asks for
is in the kernel's name. The exit status is 1 if a kernel spills.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Kernel:
    """What a kernel takes: registers of a thread, bytes of shared memory of a block, bytes spilled."""

    architecture: str
    name: str
    registers: int
    static_shared: int
    dynamic_shared: int
    spilled: int


def kernels() -> list[Kernel]:
    """Of all sources, compiled now. Raises setup.py's NotBuilt without nvcc, RuntimeError where it fails."""
    setup = _setup()
    command = setup.nvcc_command(setup.cuda_toolkit(), setup.torch_folder())
    with tempfile.TemporaryDirectory() as folder:

        def assemble(source: Path) -> str:
            target = Path(folder, f"{source.stem}.fatbin")
            done = subprocess.run(
                [*command, "-Xptxas", "-v", "--fatbin", str(source), "-o", str(target)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode:
                raise RuntimeError(f"{source}: {done.stdout[-2000:]}")
            return done.stdout

        with ThreadPoolExecutor() as pool:
            said = list(pool.map(assemble, sorted((ROOT / "csrc" / "cuda").glob("*.cu"))))
    return [kernel for text in said for kernel in parsed(text)]


def parsed(text: str) -> Iterator[Kernel]:
    """The kernels in what `ptxas -v` prints."""
    pattern = re.compile(
        r"Compiling entry function '(?P<name>\S+)' for '(?P<architecture>sm_\w+)'"
        r".*?(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
        r".*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
        re.DOTALL,
    )
    found = list(pattern.finditer(text))
    for match, name in zip(found, demangled([match["name"] for match in found]), strict=True):
        static = re.search(r"(\d+) bytes smem", match["rest"])
        dynamic = re.search(r"tiles_kernel<.*, \(?(?:unsigned long\))?(\d+)(?:ul)?>\(", name)
        yield Kernel(
            match["architecture"],
            _short(name),
            int(match["registers"]),
            int(static[1]) if static else 0,
            int(dynamic[1]) if dynamic else 0,
            int(match["stores"]) + int(match["loads"]),
        )


def demangled(names: list[str]) -> list[str]:
    """Names as in the source; as they are where there is no c++filt."""
    if not names or not shutil.which("c++filt"):
        return names
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def _short(name: str) -> str:
    """Without namespaces, and without what the arguments repeat."""
    name = re.sub(
        r"convbody::|\(anonymous namespace\)::|cuda::|norm::|torch::headeronly::|c10::|^void ", "", name
    )
    name = name.replace("__nv_bfloat16", "bfloat16").replace("BFloat16", "bfloat16").replace("__half", "Half")
    tile = re.match(r"tiles_kernel<(\w+)Shared<(\w+)>", name)
    return f"{tile[1]}<{tile[2]}>" if tile else re.sub(r"\(.*", "", name)


def _setup() -> Any:
    spec = importlib.util.spec_from_file_location("convbody_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> int:
    found = kernels()
    print(f"{'':8}{'kernel':44}{'registers':>10}{'shared':>8}{'launched':>10}{'spilled':>9}")
    for k in found:
        print(
            f"{k.architecture:8}{k.name:44}{k.registers:10}{k.static_shared:8}{k.dynamic_shared:10}{k.spilled:9}"
        )
    spilling = [kernel for kernel in found if kernel.spilled]
    print(f"{len(found)} kernels, {len(spilling)} spill")
    return 1 if spilling or not found else 0


if __name__ == "__main__":
    sys.exit(main())
