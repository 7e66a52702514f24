"""The operators on the CPU under AddressSanitizer and UndefinedBehaviorSanitizer, at odd shapes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("g++")
FLAGS = ["-std=c++20", "-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
EXTENSION_FLAGS = [
    *("-shared", "-fPIC", "-fvisibility=hidden", "-DTORCH_TARGET_VERSION=0x020b000000000000"),
    f"-I{Path(torch.__file__).parent / 'include'}",
]
TORCH_LIBRARIES = [f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu"]


def sanitizer() -> Path | None:
    """g++'s libasan; without the file, g++ only repeats its name."""
    if COMPILER is None:
        return None
    says = subprocess.run([COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True)
    path = Path(says.stdout.strip())
    return path.resolve() if path.is_absolute() and path.exists() else None


LIBASAN = sanitizer()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(LIBASAN is None, reason="g++ and its libasan are needed, and one is missing"),
]


def run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


def test_the_kernels_of_every_instruction_set_that_is_here(tmp_path):
    program = tmp_path / "kernels_check"
    run([COMPILER, *FLAGS, "tests/csrc/kernels_check.cpp", "-o", str(program)])
    assert "baseline" in run([str(program)]).split()


# A script that calls the operators, with the sources they are in.
CALLED = {
    "deform_conv_odd_shapes.py": ("deform_conv", "kernels"),
    "activated_norm_odd_shapes.py": ("activated_norm", "activated_norm_kernels"),
    "heads_odd_shapes.py": ("roi_align", "roi_kernels", "nms", "nms_kernels"),
    "fused_conv_odd_shapes.py": ("fused_conv", "winograd_kernels", "kernels"),
}


@pytest.mark.parametrize("script", CALLED)
def test_the_operators_at_odd_shapes(script, tmp_path):
    sources = ["csrc/library.cpp", *(f"csrc/cpu/{name}.cpp" for name in CALLED[script])]
    library = tmp_path / "sanitized.so"
    run([COMPILER, *FLAGS, *EXTENSION_FLAGS, *sources, "-o", str(library), *TORCH_LIBRARIES])
    # Memory that Python and torch keep to their end is no leak of ours.
    environment = {"LD_PRELOAD": str(LIBASAN), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
    assert int(run([sys.executable, f"tests/csrc/{script}", str(library)], **environment)) > 100, "calls"
