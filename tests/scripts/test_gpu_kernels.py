"""What the assembler says of the CUDA kernels: for every architecture, and without a spill."""

import importlib.util
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "scripts" / "gpu" / "kernels.py"
SAID = """
ptxas info    : 11 bytes gmem
ptxas info    : Compiling entry function '_Z1fv' for 'sm_90'
ptxas info    : Function properties for _Z1fv
    8 bytes stack frame, 12 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 4096 bytes smem
ptxas info    : Compiling entry function '_Z1gv' for 'sm_100'
ptxas info    : Function properties for _Z1gv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers
"""


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("gpu_kernels", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_kernels"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_kernels"]


def test_spills_registers_and_shared_memory_are_read(program):
    first, second = program.parsed(SAID)
    assert (first.architecture, first.registers, first.static_shared, first.spilled) == (
        "sm_90",
        40,
        4096,
        16,
    )
    assert (second.architecture, second.registers, second.static_shared, second.spilled) == (
        "sm_100",
        128,
        0,
        0,
    )


@pytest.mark.slow
def test_no_kernel_spills_on_any_architecture(program):
    try:
        found = program.kernels()
    except Exception as missing:
        if type(missing).__name__ != "NotBuilt":
            raise
        pytest.skip(str(missing).splitlines()[0])
    names = {}
    for kernel in found:
        names.setdefault(kernel.architecture, set()).add(kernel.name)
    assert len(set(map(frozenset, names.values()))) == 1, "every architecture has every kernel"
    types = ("double", "float", "Half", "bfloat16")
    tiles = {
        f"{tile}<{t}>" for tile in ("Forward", "BackwardData", "BackwardWeight", "Gather") for t in types
    }
    assert tiles <= next(iter(names.values()))
    assert all(k.dynamic_shared > 0 for k in found if k.name in tiles), "launched with shared memory"
    assert [kernel for kernel in found if kernel.spilled] == []
