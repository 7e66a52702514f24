"""Part 1 of the GPU check: build the operators here, or take those that the bundle carries.

    scripts/gpu/build.py --device cuda|cpu [--rehearse] --json FILE

The carried ones serve where nvcc or a compiler is missing, or the build fails or takes too long, or what was
built does not load. They must have been built from the sources that are here.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

from carried import NAMES, take
from rows import Rows, arguments, seconds_given
from surroundings import BUNDLE, ROOT, answer_of

RESERVED_SECONDS = 15.0  # of this part's time, to fall back and to load what there is


def main() -> int:
    args = arguments(__doc__)
    rows = Rows(args.json)
    needed = {"cpu", args.device}
    with rows.guarded("build"):
        unbuilt = build(rows, seconds_given() - RESERVED_SECONDS)
        for device in NAMES:
            source, why = serve(device, unbuilt)
            serves = True if source else False if device in needed else None
            rows.add(f"operators for {device}", ok=serves, value=source or "none", detail=why)
    return rows.status()


def serve(device: str, unbuilt: str) -> tuple[str, str]:
    """Where the operators for a device are from, or nothing; and why they were not built here."""
    if not (reason := unbuilt or lacking(device)):
        return "built here", ""
    if refused := take(device, BUNDLE / "operators", ROOT):
        return "", f"{reason}; {refused}"
    if useless := lacking(device):
        return "", f"{reason}; those that the bundle carries: {useless}"
    return "carried in the bundle", reason


def lacking(device: str) -> str:
    """Why the extension for a device does not serve, or nothing; asked in a process of its own."""
    try:
        command = [sys.executable, "-m", "backbones.ops"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired as late:
        return f"{late}"
    status = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    if device not in status:
        print(done.stderr, flush=True)
        return f"python -m backbones.ops ends with {(done.stderr.strip().splitlines() or ['nothing'])[-1]}"
    return "" if status[device] == "the extension" else status[device]


def build(rows: Rows, seconds: float) -> str:
    """Runs setup.py for at most so long; why it did not come to its end, or nothing."""
    home = os.environ.get("CUDA_HOME")
    says = answer_of([f"{home}/bin/nvcc" if home else "nvcc", "--version"], 10)
    rows.add("nvcc", value=" ".join(re.findall(r"V[\d.]+", says or "")) or "none")
    started, reason = time.monotonic(), ""
    process = subprocess.Popen(
        [sys.executable, "setup.py", "build_ext", "--inplace"], cwd=ROOT, start_new_session=True
    )
    try:
        if process.wait(timeout=max(1.0, seconds)):
            reason = f"setup.py ended with exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the compilers, too
        process.wait()
        reason = f"setup.py took longer than {seconds:.0f} s"
    rows.add("setup.py build_ext", value=round(time.monotonic() - started, 1), unit="s", detail=reason)
    return reason


if __name__ == "__main__":
    sys.exit(main())
