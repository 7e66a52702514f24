"""setup.py: what it builds, when it builds it again, and that it never fails an installation."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("registry", "backbones", "convbody")
WRITE = '#!/bin/sh\necho "$@" >> "$0.log"\nwhile [ $# -gt 0 ]; do [ "$1" = -o ] && : > "$2"; shift; done\n'


@pytest.fixture
def project(tmp_path):
    """What a release consists of, with nothing built."""
    folder = tmp_path / "project"
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.not_built.txt")
    for name in (*PACKAGES, "csrc"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def setup_module():
    spec = importlib.util.spec_from_file_location("setup_of_convbody", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def build(project, **environment):
    """In place; the CUDA sources only where asked for. What is printed as an error."""
    environment = {**os.environ, "CUDA_HOME": "/none", **environment}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=True)
    return done.stderr


def notes(project):
    folder = project / "backbones" / "ops"
    return {path.name: path.read_text() for path in folder.glob("*.not_built.txt")}


def test_without_a_compiler_a_line_says_so_and_the_installation_goes_on(project):
    said = build(project, PATH="/none", CXX="")
    reason = "no C++ compiler (c++, g++, clang++) on the PATH when convbody was installed"
    assert said.splitlines()[0] == f"backbones.ops._C is not built: {reason}"
    assert notes(project) == {
        "_C.not_built.txt": f"{reason}\n",
        "_C_cuda.not_built.txt": "no nvcc (CUDA_HOME, PATH) when convbody was installed\n",
    }
    assert not list(project.rglob("*.so"))


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("false", "false failed: no message"), ("/none/c++ -m64", "/none/c++ does not run: ")],
)
def test_a_compiler_that_fails_fails_nothing_else(project, compiler, reason):
    assert f"backbones.ops._C is not built: {reason}" in build(project, CXX=compiler)
    assert notes(project)["_C.not_built.txt"].startswith(reason)


def test_the_note_keeps_what_the_compiler_said(project, tmp_path):
    compiler = script(tmp_path / "cxx", "#!/bin/sh\necho first\necho 'x.cpp:1: error: bad' >&2\nexit 1\n")
    said = build(project, CXX=str(compiler))
    assert f"_C is not built: {compiler} failed: x.cpp:1: error: bad\n" in said
    assert "\nfirst\n" in notes(project)["_C.not_built.txt"]


def test_a_change_of_the_sources_builds_anew_and_nothing_else_does(project, tmp_path):
    compiler = script(tmp_path / "cxx", WRITE)
    log = Path(f"{compiler}.log")

    def compiled():
        log.unlink(missing_ok=True)
        assert "_C is not built" not in build(project, CXX=str(compiler))
        return [
            line.split()[line.split().index("-c") + 1]
            for line in log.read_text().splitlines()
            if " -c " in line
        ]

    units = sorted(str(p.relative_to(project)) for p in project.glob("csrc/**/*.cpp"))
    assert sorted(compiled()) == units
    assert (project / "backbones" / "ops" / "_C.abi3.so").exists()
    assert compiled() == []
    (project / "csrc" / "cuda" / "deform_conv.cu").touch()
    assert compiled() == []
    later = time.time() + 100
    os.utime(project / "csrc" / "ops.h", (later, later))
    assert sorted(compiled()) == units


def test_a_build_that_fails_leaves_no_older_one_behind(project, tmp_path):
    build(project, CXX=str(script(tmp_path / "cxx", WRITE)))
    assert (project / "backbones" / "ops" / "_C.abi3.so").exists()
    assert "_C.not_built.txt" not in notes(project)
    build(project, CXX="false")
    assert not list(project.rglob("*.so")) and "_C.not_built.txt" in notes(project)


def test_the_switch_builds_nothing(project):
    assert build(project, CONVBODY_NO_EXTENSION="1", CXX="false") == ""
    assert not notes(project)


def test_the_toolkit_is_that_behind_an_nvcc_which_is_a_script(setup_module, tmp_path, monkeypatch):
    real = script(
        tmp_path / "toolkit" / "bin" / "nvcc", f"#!/bin/sh\necho '#$ _HERE_={tmp_path}/toolkit/bin' >&2\n"
    )
    script(tmp_path / "bin" / "nvcc", f'#!/bin/sh\nexec {real} "$@"\n')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    assert setup_module.cuda_toolkit() == tmp_path / "toolkit"
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "none"))
    with pytest.raises(setup_module.NotBuilt, match="no nvcc"):
        setup_module.cuda_toolkit()


@pytest.mark.parametrize(
    ("listed", "wanted"),
    [
        ("75 80 86 90 100 120", ["sm_80", "sm_90", "sm_100", "compute_100"]),
        ("80 90", ["sm_80", "sm_90", "compute_90"]),
    ],
)
def test_nvcc_compiles_for_the_architectures_that_it_knows(setup_module, tmp_path, listed, wanted):
    lines = "\n".join(f"compute_{number}" for number in listed.split())
    script(tmp_path / "bin" / "nvcc", f"#!/bin/sh\necho '{lines}'\n")
    command = setup_module.nvcc_command(tmp_path, setup_module.torch_folder())
    codes = [word.rpartition("code=")[2] for word in command if word.startswith("--generate-code=")]
    assert codes == wanted


def test_an_nvcc_that_knows_none_of_the_architectures_is_a_reason(setup_module, tmp_path):
    script(tmp_path / "bin" / "nvcc", "#!/bin/sh\necho compute_70\n")
    with pytest.raises(setup_module.NotBuilt, match="compiles for none of sm_80, sm_90, sm_100"):
        setup_module.nvcc_command(tmp_path, setup_module.torch_folder())


def test_a_torch_that_is_too_old_is_not_compiled_against(setup_module, tmp_path, monkeypatch):
    assert setup_module.build_requirements() == []
    (tmp_path / "torch").mkdir()
    version = tmp_path / "torch" / "version.py"
    monkeypatch.setattr(setup_module.sysconfig, "get_path", lambda kind: str(tmp_path))
    monkeypatch.setattr(setup_module.importlib.util, "find_spec", lambda name: None)
    version.write_text("__version__ = '2.11.0+cpu'\n")
    assert setup_module.torch_folder() == tmp_path / "torch"
    version.write_text("__version__ = '2.10.1'\n")
    assert setup_module.build_requirements() == ["torch>=2.11"]
    with pytest.raises(setup_module.NotBuilt, match=r"no torch 2\.11 or newer to compile against"):
        setup_module.torch_folder()


INSTALLED = """
import torch
from backbones.ops import deform_conv2d, status
from backbones.ops.deform_conv_reference import deform_conv2d_reference
print(status()["cpu"])
print(status()["cuda"])
x, offset, weight = torch.rand(2, 4, 6, 5), torch.rand(2, 18, 4, 3), torch.rand(4, 4, 3, 3)
wanted = deform_conv2d_reference(x, offset, weight, None, None, (1, 1, 0, 0, 1, 1))
torch.testing.assert_close(deform_conv2d(x, offset, weight), wanted)
"""


@pytest.fixture
def install(project, tmp_path):
    """Installs the project into an environment of its own; returns what its operators say of themselves."""

    def run(*options, **environment):
        folder = tmp_path / "environment"
        venv.create(folder)
        python = folder / "bin" / "python"
        outer = [path for path in sys.path if path.endswith("site-packages")]
        lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in outer)
        (next(folder.glob("lib/python*/site-packages")) / "outer.pth").write_text(lines)
        environment = {**os.environ, "CUDA_HOME": "/none", **environment}
        pip = [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet", "--ignore-installed"]
        pip += ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", *options]
        subprocess.run([*pip, project], env=environment, check=True)
        done = subprocess.run(
            [python, "-P", "-W", "error:.*extension", "-c", INSTALLED],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="there is no C++ compiler")
def test_pip_install_builds_the_extension(install):
    cpu, cuda = install()
    assert cpu == "the extension"
    assert "the extension is not built: no nvcc" in cuda or "no CUDA" in cuda


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--editable"]])
def test_pip_install_without_a_compiler_succeeds_and_the_operator_works(install, options):
    cpu, _ = install(*options, CXX="false")
    assert cpu.startswith(
        "torchvision's operator (the extension is not built: false failed: no message; see "
    )
