"""What the parts of the GPU check run in: the machine, the packages, what the bundle adds to them."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "gpu_bundle"
TOOLKIT = "/usr/local/cuda"  # where CUDA lies unless CUDA_HOME or PATH say otherwise
PACKAGES = (
    *("torch", "torchvision", "timm", "numpy", "pillow", "triton", "onnx", "onnxruntime", "pytest"),
    *("yacs", "fvcore", "iopath", "pycocotools", "hotcoco", "msgspec"),
)
#: Run in a process of its own, which may hang or crash in the driver.
_ASK_TORCH = """
import json, torch
answer = {"available": torch.cuda.is_available(), "torch is for CUDA": torch.version.cuda}
if answer["available"]:
    device = torch.cuda.get_device_properties(0)
    answer |= {
        "name": device.name,
        "capability": f"{device.major}.{device.minor}",
        "memory MiB": device.total_memory >> 20,
        "L2 MiB": getattr(device, "L2_cache_size", 0) >> 20,
        "multiprocessors": device.multi_processor_count,
        "devices": torch.cuda.device_count(),
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
    }
print(json.dumps(answer))
"""


def machine() -> dict[str, Any]:
    """Processor, memory, kernel and commit, as far as files say."""
    cpu = re.findall(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    memory = re.findall(r"^MemTotal:\s*(\d+)", _text("/proc/meminfo"), re.MULTILINE)
    commit = answer_of(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], 5)
    return {
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory GiB": int(memory[0]) >> 20 if memory else None,
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_version()} ({sys.executable})",
        "commit": commit or "no git here",
    }


def versions(site: Path) -> dict[str, str | None]:
    """The packages that count, of this Python and of `site`; None for those that are missing."""
    found: dict[str, str | None] = dict.fromkeys(PACKAGES)
    places = metadata.distributions(path=[str(site), *sys.path])
    for distribution in reversed(list(places)):  # the first of a name is the one that is imported
        if (name := normalized(distribution.name or "")) in found:
            found[name] = distribution.version
    return found


def device(env: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """What torch, nvidia-smi and nvcc say of the device; `available` is False where torch sees none."""
    smi = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total,clocks.max.sm",
        "--format=csv,noheader",
    ]
    nvcc = re.search(r"release ([\d.]+)", answer_of(["nvcc", "--version"], 10, env) or "")
    facts = {
        "nvidia-smi": answer_of(smi, 15, env),
        "nvcc": nvcc[1] if nvcc else None,
        "compute-sanitizer": shutil.which("compute-sanitizer", path=env.get("PATH")),
    }
    said = answer_of([sys.executable, "-c", _ASK_TORCH], seconds, env)
    try:
        answer = json.loads(said.splitlines()[-1]) if said else {}
    except ValueError:
        answer = {}
    return {"available": False, **facts, **answer}


def install_wheels(bundle: Path, site: Path, seconds: float) -> str:
    """Installs from `bundle` into the folder `site` what this Python lacks; a sentence that says what."""
    if not bundle.is_dir():
        return f"no bundle in {bundle.name}/ (scripts/gpu_bundle.sh makes it): nothing is installed, no data"
    present = {normalized(found.name or "") for found in metadata.distributions()}
    wheels = [path for path in sorted(bundle.glob("wheels/*.whl")) if wheel_package(path) not in present]
    if not wheels:
        return f"{bundle.name}/ has no package that is missing here"
    failures = pip_install(wheels, site, seconds)
    if failures and len(wheels) > 1:  # one that does not fit this Python shall not keep out the others
        failures = [line for wheel in wheels for line in pip_install([wheel], site, seconds / len(wheels))]
    names = ", ".join(wheel_package(path) for path in wheels)
    return f"installed from {bundle.name}/: {names}" + "".join(f"; failed: {line}" for line in failures)


def pip_install(wheels: Sequence[Path], site: Path, seconds: float) -> list[str]:
    """Installs wheels into a folder, from no index; the last line of what pip said if it failed."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--target", str(site), *map(str, wheels)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return [f"pip took longer than {seconds:.0f} s"]
    said = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["pip gave no reason"]
    return [said[-1]] if done.returncode else []


def environment(scratch: Path, site: Path, bundle: Path) -> dict[str, str]:
    """The environment of a part: this checkout, installed wheels, the data, the toolkit, a scratch folder."""
    env = dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(site), *filter(None, [env.get("PYTHONPATH")])])
    env |= {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "TMPDIR": str(scratch)}
    env |= {"CONVBODY_WEIGHTS": str(scratch / "weights")}
    if (bundle / "datasets").is_dir():
        env["CONVBODY_DATASETS"] = str(bundle / "datasets")
    # nvcc, and its neighbours: compute-sanitizer, cuobjdump.
    env["PATH"] = os.pathsep.join([env.get("PATH", ""), str(Path(env.get("CUDA_HOME", TOOLKIT), "bin"))])
    return env


def answer_of(command: Sequence[str], seconds: float, env: Mapping[str, str] | None = None) -> str | None:
    """What a command prints; None if it is not there, fails, or takes longer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=env, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def wheel_package(path: Path) -> str:
    """The package that a wheel's file name names, normalized."""
    return normalized(path.name.partition("-")[0])


def normalized(name: str) -> str:
    """A package's name as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
