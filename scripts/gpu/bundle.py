"""Make the folder gpu_bundle/: what scripts/gpu_check.sh needs on a machine that has torch, but no network.

    scripts/gpu_bundle.sh

It holds wheels for CPython 3.12 on Linux (x86-64), the data set of the quickstart with its ImageNet weights,
and the operators, built here. The folder travels in the checkout; more than 50 MiB are an error.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from email.parser import Parser
from pathlib import Path

from carried import FINGERPRINT, NAMES, PLACE, fingerprint
from packaging.requirements import Requirement
from setuptools.config.pyprojecttoml import read_configuration
from surroundings import BUNDLE, ROOT, answer_of, normalized, wheel_package

MOST_BYTES = 50 << 20
#: What convbody and its tests need and the machine lacks, with what these need.
WHEELS = (
    "yacs",
    "fvcore",
    "iopath",
    "portalocker",
    "termcolor",
    "tabulate",
    "pycocotools",
    "hotcoco",
    "msgspec",
)
#: What the machine has: that which docs/gpu.md asks for, and what comes with it.
PRESENT = {
    *("torch", "torchvision", "timm", "numpy", "pillow", "pyyaml", "tqdm", "typing-extensions"),
    *("tensorboard", "safetensors", "jinja2"),
}
PYTHON_VERSION = "3.12"
GLIBC = ("1", "2010", "2014", "_2_17", "_2_24", "_2_27", "_2_28")  # of manylinux; pip wants them all named


class Incomplete(Exception):
    """Why the bundle cannot be made: one line."""


def main() -> int:
    try:
        wheels = fetch_wheels(BUNDLE / "wheels")
        prepare_data(BUNDLE / "datasets")
        operators = build_operators(BUNDLE / "operators")
        write_manifest(BUNDLE, wheels, operators)
        check_size(BUNDLE, MOST_BYTES)
    except Incomplete as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 1
    return 0


def fetch_wheels(folder: Path) -> list[str]:
    """Downloads the wheels; those of which only sources are published are built here. Gives their names."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    platforms = [f"--platform=manylinux{glibc}_x86_64" for glibc in GLIBC]
    target = ["--only-binary=:all:", f"--python-version={PYTHON_VERSION}", "--implementation=cp", *platforms]
    for package in WHEELS:
        quiet = ["--quiet", "--no-deps", "--disable-pip-version-check"]
        download = pip("download", *quiet, *target, "--dest", str(folder), package)
        if download and (reason := pip("wheel", *quiet, "--wheel-dir", str(folder), package)):
            raise Incomplete(f"pip can neither download a wheel of {package} nor build one: {reason}")
    files = sorted(folder.glob("*.whl"))
    if built_for_here := [path.name for path in files if not fits(path)]:
        raise Incomplete(f"built for this Python, not for {PYTHON_VERSION}: {', '.join(built_for_here)}")
    check_requirements(files)
    print(f"wheels: {', '.join(path.name for path in files)}")
    return [path.name for path in files]


def fits(wheel: Path) -> bool:
    """Whether a wheel is for any Python, or for the one on the machine."""
    python, abi, platform = wheel.stem.split("-")[-3:]
    wanted = int(PYTHON_VERSION.replace(".", ""))
    if (abi, platform) == ("none", "any"):
        return True
    stable = abi == "abi3" and any(
        int(tag[2:]) <= wanted for tag in python.split(".") if tag.startswith("cp3")
    )
    return "manylinux" in platform and (stable or abi == f"cp{wanted}")


def check_requirements(wheels: Sequence[Path]) -> None:
    """Raises Incomplete where a wheel, or convbody, needs a package that the machine will not have."""
    there = PRESENT | {wheel_package(path) for path in wheels}
    needs = {"convbody": dependencies(ROOT)}
    needs |= {wheel_package(path): requirements_of(path) for path in wheels}
    lacking = [f"{package} needs {need}" for package, lines in needs.items() for need in names(lines) - there]
    if lacking:
        raise Incomplete(f"{'; '.join(lacking)}: add it to WHEELS in scripts/gpu/bundle.py, or to PRESENT")


def dependencies(root: Path) -> list[str]:
    """The requirements in pyproject.toml: those of an older installation may be others."""
    content = read_configuration(root / "pyproject.toml", expand=False)
    return list(content["project"]["dependencies"])


def requirements_of(wheel: Path) -> list[str]:
    """The requirements in a wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []


def names(requirements: Iterable[str]) -> set[str]:
    """The packages that these lines ask for on the machine, extras left out."""
    target = {"python_version": PYTHON_VERSION, "sys_platform": "linux", "platform_system": "Linux"}
    wanted = (Requirement(line) for line in requirements)
    return {
        normalized(need.name)
        for need in wanted
        if need.marker is None or need.marker.evaluate({**target, "extra": ""})
    }


def prepare_data(folder: Path) -> None:
    """The weights and the tiles of the quickstart; what pip fetches for them stays outside of the bundle.

    The training tiles do not overlap here: each pixel of the plot travels once.
    """
    trees = ["trees", "--output", str(folder / "trees"), "--overlap", "0"]
    command = [sys.executable, "tools/prepare_data.py", *trees]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise Incomplete("tools/prepare_data.py cannot make the data set; its message is above")


def build_operators(folder: Path) -> list[str]:
    """Builds the operators into `folder`; the devices that they are for."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as built:
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", built]
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        for device, name in NAMES.items():
            if (file := Path(built, PLACE, name)).exists():
                shutil.copy2(file, folder / name)
            else:
                print(f"operators for {device}: none could be built here; the machine must build its own")
    (folder / FINGERPRINT).write_text(fingerprint(ROOT) + "\n")
    devices = [device for device, name in NAMES.items() if (folder / name).exists()]
    print(f"operators: {', '.join(devices) or 'none'}")
    return devices


def write_manifest(folder: Path, wheels: Sequence[str], operators: Sequence[str]) -> None:
    """What the bundle holds and which commit it was made at; scripts/gpu_check.sh repeats it."""
    commit = answer_of(["git", "describe", "--always", "--dirty"], 10)
    content = {"commit": commit, "wheels": list(wheels), "operators": list(operators)}
    (folder / "manifest.json").write_text(json.dumps(content, indent=1))


def check_size(folder: Path, most: int) -> None:
    """Prints how large the bundle is; raises Incomplete where that is too much."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder.name}: {size / (1 << 20):.1f} MiB of {most >> 20}")
    if size > most:
        raise Incomplete(f"{folder.name}/ is larger than {most >> 20} MiB; see du -a {folder.name} | sort -n")


def pip(*arguments: str) -> str:
    """Runs pip; the last line of its complaint, or nothing."""
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    errors = [line for line in done.stderr.splitlines() if "ERROR" in line or "error" in line]
    return (errors or ["pip gave no reason"])[-1]


if __name__ == "__main__":
    sys.exit(main())
