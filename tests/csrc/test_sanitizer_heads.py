"""RoIAlign and non-maximum suppression stay inside their memory: AddressSanitizer and UBSan watch them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("g++")
SOURCES = [
    "csrc/library.cpp",
    *(f"csrc/cpu/{name}.cpp" for name in ("roi_align", "roi_kernels", "nms", "nms_kernels")),
]
FLAGS = ["-std=c++20", "-O0", "-g1", "-fPIC", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def runtime() -> Path | None:
    """The library that must be loaded before any other."""
    if COMPILER is None:
        return None
    command = [COMPILER, "-print-file-name=libasan.so"]
    path = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    return path if path.is_absolute() else None


@pytest.mark.slow
@pytest.mark.skipif(runtime() is None, reason="no g++ with AddressSanitizer")
def test_odd_shapes(tmp_path):
    torch_folder = Path(torch.__file__).parent
    defines = ["-DTORCH_TARGET_VERSION=0x020b000000000000", f"-I{torch_folder / 'include'}"]
    library = tmp_path / "sanitized.so"
    linked = ["-shared", "-o", str(library), f"-L{torch_folder / 'lib'}", "-ltorch_cpu"]
    subprocess.run([COMPILER, *FLAGS, *defines, *SOURCES, *linked], cwd=ROOT, check=True)
    script = Path(__file__).with_name("heads_odd_shapes.py")
    # Python itself never frees all it has.
    watched = {**os.environ, "LD_PRELOAD": str(runtime()), "ASAN_OPTIONS": "detect_leaks=0"}
    result = subprocess.run(
        [sys.executable, str(script), str(library)], env=watched, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
