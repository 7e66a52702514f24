"""Part 3 of the GPU check: compute-sanitizer over every CUDA kernel at small odd sizes.

    scripts/gpu/sanitizer.py --device cuda|cpu [--rehearse] --json FILE

memcheck finds what reads or writes beyond a tensor, racecheck what races in shared memory. Each tool also has
to find a planted error. torch takes the memory of each tensor from CUDA here, so that none lies in another's.
A rehearsal runs AddressSanitizer over the operators on the CPU at the same sizes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from lanes import Check, run_lanes
from rows import Rows, arguments, seconds_given

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = [f"backbones/ops/{name}.abi3.so" for name in ("_C", "_C_cuda")]
SCRIPTS = {name: f"tests/csrc/{name}_odd_shapes.py" for name in ("deform_conv", "activated_norm")}
TOOLS = ("memcheck", "racecheck")
FOUND = 86  # compute-sanitizer's exit status when it has found an error
NEEDED_CALLS = 20  # fewer are no check of every kernel
END_SECONDS = 6.0  # that the tools take to end

#: Kernels with an error that the tool must find, or it finds nothing in ours either.
PLANTED = {
    "memcheck": "x[n + threadIdx.x] = 1.0f;",
    "racecheck": "__shared__ float s[128]; s[threadIdx.x] = x[0]; x[0] = s[127 - threadIdx.x];",
}
PLANT = """
import torch
source = 'extern "C" __global__ void convbody_planted(float* x, int n) {{ {body} }}'
kernel = torch.cuda._compile_kernel(source, "convbody_planted")
x = torch.zeros(4, device="cuda")
try:
    kernel(grid=(1, 1, 1), block=(128, 1, 1), args=[x, 4])
    torch.cuda.synchronize()
except RuntimeError as refused:
    print(refused)
"""


def main() -> int:
    args = arguments(__doc__)
    if args.rehearse:
        checks = [Check(name, partial(address_sanitizer, script=name), 60) for name in SCRIPTS]
        return run_lanes(args, {"AddressSanitizer": checks})
    tool = shutil.which("compute-sanitizer")
    if not tool:
        rows = Rows(args.json)
        rows.miss("compute-sanitizer", "not on the PATH nor beside nvcc: nothing was checked")
        return rows.status()
    until = time.time() + seconds_given() - END_SECONDS
    watched = partial(watch, tool=tool, until=until)
    lanes = {
        f"{check} of {name}": [Check(f"{check} of {name}", partial(watched, check=check, name=name), 300)]
        for check in TOOLS
        for name in SCRIPTS
    }
    for check in TOOLS:
        planted = Check(f"{check} finds a planted error", partial(plant, tool=tool, check=check), 60)
        lanes[f"{check}, planted"] = [planted]
    return run_lanes(args, lanes, side_by_side=6)


def watch(rows: Rows, tool: str, check: str, name: str, until: float) -> None:
    """Runs calls at odd shapes under a tool until the time is up."""
    script = [SCRIPTS[name], *LIBRARIES, "--device", "cuda", "--until", f"{until:.0f}"]
    done = run([*command(tool, check), sys.executable, *script])
    print(done.stdout[-20000:], flush=True)
    counts = re.findall(r"^(\d+)$", done.stdout, re.MULTILINE)
    calls = int(counts[-1]) if counts else 0
    clean = done.returncode == 0 and errors_found(done.stdout) == 0
    if clean and calls < NEEDED_CALLS:
        rows.miss(f"{check} of {name}", f"no error in {calls} calls, but {NEEDED_CALLS} are needed")
        return
    detail = "no error" if clean else f"exit status {done.returncode}; {first_lines(done.stdout)}"
    rows.add(f"{check} of {name}", clean, calls, "calls", detail)


def errors_found(output: str) -> int | None:
    """What a tool's summary counts; None without a summary."""
    counts = re.findall(r"^=+ (?:ERROR SUMMARY|RACECHECK SUMMARY): (\d+)", output, re.MULTILINE)
    return int(counts[-1]) if counts else None


def plant(rows: Rows, tool: str, check: str) -> None:
    """Whether a tool finds an error where there is one."""
    name = f"{check} finds a planted error"
    done = run([*command(tool, check), sys.executable, "-c", PLANT.format(body=PLANTED[check])])
    if "_compile_kernel" in done.stdout and "AttributeError" in done.stdout:
        rows.miss(name, "this torch compiles no kernels")
    else:
        rows.add(name, bool(errors_found(done.stdout)), detail=first_lines(done.stdout))


def command(tool: str, check: str) -> list[str]:
    """compute-sanitizer, for our kernels alone; the option for that has changed its name."""
    options = subprocess.run([tool, "--help"], capture_output=True, text=True).stdout
    selection = "--kernel-name" if "--kernel-name " in options else "--kernel-regex"
    bounded = ["--padding", "64"] if check == "memcheck" else []
    return [tool, "--tool", check, "--error-exitcode", str(FOUND), selection, "kns=convbody", *bounded]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Output and errors in one text."""
    environment = {
        **os.environ,
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    output, error = subprocess.PIPE, subprocess.STDOUT
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, stdout=output, stderr=error)


def first_lines(output: str) -> str:
    """What the tool said first of an error."""
    marked = [line.strip("= ") for line in output.splitlines() if line.startswith("=====")]
    errors = [number for number, line in enumerate(marked) if re.search("Invalid|Error|hazard|error", line)]
    start = errors[0] if errors else 0
    return "\n".join(marked[start : start + 12] or output.splitlines()[-12:])


def address_sanitizer(rows: Rows, script: str) -> None:
    """The operators on the CPU at the same sizes, built with g++'s sanitizers."""
    test = f"tests/csrc/test_sanitizer.py::test_the_operators_at_odd_shapes[{script}_odd_shapes.py]"
    done = run([sys.executable, "-m", "pytest", "-q", "-m", "slow", "-rs", "-p", "no:cacheprovider", test])
    print(done.stdout, flush=True)
    skipped = re.search(r"^SKIPPED .*", done.stdout, re.MULTILINE)
    last = (done.stdout.strip().splitlines() or [""])[-1]
    name = f"AddressSanitizer of {script} on the CPU"
    if skipped:
        rows.miss(name, skipped[0])
    else:
        rows.add(name, done.returncode == 0, detail=last)


if __name__ == "__main__":
    sys.exit(main())
