"""Build script: the extension modules. Metadata and every tool's settings are in pyproject.toml.

`backbones.ops._C` holds the CPU operators, `backbones.ops._C_cuda` the CUDA kernels. Both are written on
LibTorch's stable ABI and use no Python API, so one build serves every torch from 2.11 on and every Python.
Neither is required: what cannot be built leaves a file `NAME.not_built.txt` in its place that says why, and
`backbones.ops.status()` repeats it. CONVBODY_NO_EXTENSION=1 builds nothing.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PACKAGE = Path("backbones", "ops")
OLDEST_TORCH = (2, 11)

DEFINES = [f"-DTORCH_TARGET_VERSION=0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}000000000000", "-DNDEBUG"]
CXX_FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas"]
# Ampere, Hopper and Blackwell, as far as nvcc knows them; later devices translate the PTX of the last.
ARCHITECTURES = (80, 90, 100)
NVCC_FLAGS = [
    *("-std=c++20", "-O3", "-DUSE_CUDA", "--expt-relaxed-constexpr", "--threads=0"),
    *("-Xcompiler", "-fPIC,-fvisibility=hidden"),
]


class NotBuilt(Exception):
    """Why an extension is not built: one line, and below it what the compiler said."""


class BuildKernels(build_ext):
    """Compiles the sources of an extension at the same time, and never fails an installation."""

    def build_extension(self, ext: Extension) -> None:
        built = Path(self.get_ext_fullpath(ext.name))
        note = built.with_name(note_name(ext))
        built.parent.mkdir(parents=True, exist_ok=True)
        for old in (built, note):
            old.unlink(missing_ok=True)
        try:
            (build_cuda if ext.name.endswith("cuda") else build_cpu)(ext, Path(self.build_temp), built)
        except NotBuilt as reason:
            note.write_text(f"{reason}\n")
            print(f"{ext.name} is not built: {str(reason).splitlines()[0]}", file=sys.stderr)

    def copy_extensions_to_source(self) -> None:
        for ext in self.extensions:
            for name in (Path(self.get_ext_filename(ext.name)).name, note_name(ext)):
                (ROOT / PACKAGE / name).unlink(missing_ok=True)
                if (built := Path(self.build_lib) / PACKAGE / name).exists():
                    shutil.copy2(built, ROOT / PACKAGE / name)


def note_name(ext: Extension) -> str:
    """The file that stands in for an extension that is not built."""
    return ext.name.rpartition(".")[2] + ".not_built.txt"


def build_cpu(ext: Extension, objects: Path, built: Path) -> None:
    """Compiles and links for the CPU."""
    compiler, torch = cxx(), torch_folder()
    flags = [*CXX_FLAGS, *DEFINES, f"-I{torch / 'include'}"]
    link(compiler, compile_all(ext, [*compiler, *flags], objects), built, torch, ["-ltorch_cpu"])


def build_cuda(ext: Extension, objects: Path, built: Path) -> None:
    """Compiles with nvcc, links with the C++ compiler."""
    toolkit, torch = cuda_toolkit(), torch_folder()
    if not (torch / "lib" / "libtorch_cuda.so").exists():
        raise NotBuilt(f"the torch in {torch} has no CUDA")
    # Not the library directory's cudart, which would tie the file to one CUDA release.
    libraries = [f"-L{toolkit / 'lib64'}", "-ltorch_cuda", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
    compiled = compile_all(ext, nvcc_command(toolkit, torch), objects)
    link(cxx(), compiled, built, torch, ["-ltorch_cpu", *libraries])


def nvcc_command(toolkit: Path, torch: Path) -> list[str]:
    """nvcc with every flag but what to compile and where to."""
    nvcc = toolkit / "bin" / "nvcc"
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout.split()
    known = [number for number in ARCHITECTURES if f"compute_{number}" in listed]
    if not known:
        wanted = ", ".join(f"sm_{number}" for number in ARCHITECTURES)
        raise NotBuilt(f"{nvcc} compiles for none of {wanted}")
    codes = [f"arch=compute_{number},code=sm_{number}" for number in known]
    codes.append(f"arch=compute_{known[-1]},code=compute_{known[-1]}")
    flags = [*NVCC_FLAGS, *(f"--generate-code={code}" for code in codes), *DEFINES]
    return [str(nvcc), "-ccbin", cxx()[0], *flags, f"-I{torch / 'include'}", f"-I{toolkit / 'include'}"]


def compile_all(ext: Extension, command: list[str], folder: Path) -> list[str]:
    """Object files of the sources, compiled side by side; those newer than every input are kept."""
    inputs = [Path(__file__), *map(Path, ext.depends), *map(Path, ext.sources)]
    newest = max(path.stat().st_mtime for path in inputs)

    def compile_one(source: str) -> str:
        target = folder / f"{source}.o"
        if not target.exists() or target.stat().st_mtime < newest:
            target.parent.mkdir(parents=True, exist_ok=True)
            execute([*command, "-c", source, "-o", str(target)])
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, ext.sources))


def link(compiler: list[str], objects: list[str], built: Path, torch: Path, libraries: list[str]) -> None:
    """A shared object that needs of torch only what it calls, by names that no release changes."""
    search = f"-L{torch / 'lib'}"
    execute([*compiler, "-shared", "-Wl,--as-needed", *objects, "-o", str(built), search, *libraries])


def execute(command: list[str]) -> None:
    """Runs a command and shows what it prints."""
    print(shlex.join(command), flush=True)
    try:
        result = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except OSError as error:
        raise NotBuilt(f"{command[0]} does not run: {error}") from None
    print(result.stdout, end="", flush=True)
    if result.returncode != 0:
        errors = [line for line in result.stdout.splitlines() if "error" in line] or ["no message"]
        raise NotBuilt(f"{command[0]} failed: {errors[0]}\n\n{shlex.join(command)}\n{result.stdout}")


def cxx() -> list[str]:
    """The C++ compiler: CXX, else the first of the usual names on the PATH."""
    if named := os.environ.get("CXX"):
        return shlex.split(named)
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise NotBuilt("no C++ compiler (c++, g++, clang++) on the PATH when convbody was installed")


def cuda_toolkit() -> Path:
    """CUDA_HOME, else the toolkit of the nvcc on the PATH, which may be a script that calls another."""
    home = os.environ.get("CUDA_HOME")
    if not home and shutil.which("nvcc"):
        command = ["nvcc", "--dryrun", "-x", "cu", "-c", os.devnull]
        says = subprocess.run(command, capture_output=True, text=True)
        found = re.search(r"^#\$ _HERE_=(.+)$", says.stderr, re.MULTILINE)
        home = str(Path(found[1]).parent) if found else None
    if not home or not Path(home, "bin", "nvcc").exists():
        raise NotBuilt("no nvcc (CUDA_HOME, PATH) when convbody was installed")
    return Path(home)


def torch_folder() -> Path:
    """The torch to compile against: that of this Python, also where pip builds in isolation from it."""
    folders = [Path(sysconfig.get_path(kind), "torch") for kind in ("purelib", "platlib")]
    spec = importlib.util.find_spec("torch")
    if spec and spec.origin:
        folders.insert(0, Path(spec.origin).parent)
    for folder in folders:
        if (folder / "version.py").exists() and torch_version(folder) >= OLDEST_TORCH:
            return folder
    raise NotBuilt(f"no torch {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]} or newer to compile against")


def torch_version(folder: Path) -> tuple[int, int]:
    """Major and minor, without importing it."""
    found = re.search(r"^__version__ = '(\d+)\.(\d+)", (folder / "version.py").read_text(), re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def build_requirements() -> list[str]:
    """torch, where none is installed beside which to build; an isolated build then brings its own."""
    try:
        torch_folder()
    except NotBuilt:
        return [f"torch>={OLDEST_TORCH[0]}.{OLDEST_TORCH[1]}"]
    return []


def sources(folder: str, pattern: str) -> list[str]:
    """Files relative to the root, where setuptools wants them."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).glob(pattern))


def extensions() -> list[Extension]:
    """What there is to build."""
    shared = sources("csrc", "*.h")
    cpu = sources("csrc", "*.cpp") + sources("csrc/cpu", "*.cpp"), shared + sources("csrc/cpu", "*.h")
    cuda = sources("csrc/cuda", "*.cu"), shared + sources("csrc/cuda", "*.h")
    return [
        Extension(
            ".".join([*PACKAGE.parts, name]), units, depends=headers, py_limited_api=True, optional=True
        )
        for name, (units, headers) in {"_C": cpu, "_C_cuda": cuda}.items()
        if units
    ]


if __name__ == "__main__":
    wanted = os.environ.get("CONVBODY_NO_EXTENSION", "0") in ("", "0")
    setup(
        ext_modules=extensions() if wanted else [],
        cmdclass={"build_ext": BuildKernels},
        setup_requires=build_requirements() if wanted else [],
        options={"bdist_wheel": {"py_limited_api": "cp310"}},
    )
