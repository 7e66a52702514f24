"""The compiled file, and what is said about it."""

import os
import re
import runpy
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import backbones.ops
from backbones.ops import library, status

ROOT = Path(__file__).resolve().parents[3]
BUILT = ROOT / "backbones" / "ops" / "_C.abi3.so"
OLDEST = os.environ.get("CONVBODY_OLDEST_PYTHON")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the library is looked for, empty; as if nothing had been loaded yet."""
    monkeypatch.setattr(library, "_FOLDER", tmp_path)
    monkeypatch.delenv(library.SWITCH, raising=False)
    library.absent.cache_clear()
    yield tmp_path
    library.absent.cache_clear()


@pytest.fixture(scope="module")
def extension(tmp_path_factory):
    """The CPU's shared object: that of the tree, else one built for these tests."""
    if BUILT.exists():
        return BUILT
    folder = tmp_path_factory.mktemp("build")
    build = [sys.executable, "setup.py", "build_ext", f"--build-lib={folder}", f"--build-temp={folder}"]
    subprocess.run(build, cwd=ROOT, env={**os.environ, "CUDA_HOME": "/none"}, check=True)
    built = folder / "backbones" / "ops" / BUILT.name
    if not built.exists():
        pytest.skip((built.parent / "_C.not_built.txt").read_text().splitlines()[0])
    return built


def wanted_symbols(path):
    """Names that a 64-bit ELF file leaves for others to define (its dynamic symbol table)."""
    data = path.read_bytes()
    (table,) = struct.unpack_from("<Q", data, 0x28)
    entry, count = struct.unpack_from("<HH", data, 0x3A)
    # Of each section: name, type, flags, address, offset, size, link, ...
    sections = [struct.unpack_from("<IIQQQQI", data, table + i * entry) for i in range(count)]
    (symbols,) = (section for section in sections if section[1] == 11)  # SHT_DYNSYM
    strings = sections[symbols[6]][4]
    names = set()
    for at in range(symbols[4], symbols[4] + symbols[5], 24):
        name, _, _, defined_in = struct.unpack_from("<IBBH", data, at)
        if not defined_in:
            names.add(data[strings + name : data.index(b"\0", strings + name)].decode())
    return names


def test_the_files_need_nothing_of_torch_but_its_stable_interface(extension):
    """Nor anything of Python. The kernels for CUDA are there if they were built."""
    for path in (extension, *extension.parent.glob("_C_cuda.abi3.so")):
        names = wanted_symbols(path)
        assert any(name.startswith("aoti_torch_") for name in names)
        assert [name for name in names if re.search(r"(?<!\d)(2at|3c10|5torch)\d", name)] == []
        assert [name for name in names if re.match(r"_?Py", name)] == []


LOAD = """
import sys, torch
torch.ops.load_library(sys.argv[1])
torch.manual_seed(0)
x, offset, mask = (torch.rand(2, channels, 6, 5) for channels in (4, 36, 18))
weight = torch.rand(4, 2, 3, 3)
out = torch.ops.convbody.deform_conv2d(x, offset, weight, None, mask, 1, 1, 1, 1, 1, 1)
grads = torch.ops.convbody.deform_conv2d_backward(out, x, offset, weight, mask, 1, 1, 1, 1, 1, 1, True)
torch.save([out, *grads], sys.argv[2])
print(torch.__version__)
"""


@pytest.mark.skipif(not OLDEST, reason="CONVBODY_OLDEST_PYTHON names no Python with the oldest torch")
def test_the_same_file_serves_the_oldest_and_the_newest_torch(extension, tmp_path):
    results = []
    for python in (OLDEST, sys.executable):
        command = [python, "-c", LOAD, str(extension), str(tmp_path / "results.pt")]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        assert python == sys.executable or said.startswith("2.11.")
        results.append(torch.load(tmp_path / "results.pt"))
    torch.testing.assert_close(*results)


def test_the_names_of_the_package_come_without_torch():
    command = "import sys, backbones.ops; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'deform_conv3d'"):
        _ = backbones.ops.deform_conv3d


def test_status_is_printed_per_device(capsys):
    runpy.run_module("backbones.ops", run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [f"{device}: {why}" for device, why in status().items()]
    assert list(status()) == ["cpu", "cuda"]


def test_what_was_never_built_is_said_with_the_reason(folder):
    assert status()["cpu"] == "torchvision's operator (the extension is not built)"
    library.absent.cache_clear()
    note = folder / "_C.not_built.txt"
    note.write_text("no C++ compiler on the PATH\n\nand more\n")
    assert status()["cpu"].endswith(f"(the extension is not built: no C++ compiler on the PATH; see {note})")
    if torch.backends.cuda.is_built():
        assert "no C++ compiler" in status()["cuda"]


def test_a_file_that_fails_to_load_is_a_warning_and_stays_known(folder, extension):
    file = folder / BUILT.name
    file.write_bytes(b"no" + extension.read_bytes())
    with pytest.warns(UserWarning, match=r"_C\.abi3\.so exists but fails to load: .*install convbody anew"):
        reason = library.absent("cpu")
    assert reason.startswith(f"{file} exists but fails to load: ") and "\n" not in reason
    assert status()["cpu"] == f"torchvision's operator ({reason})"


def test_a_file_of_older_sources_is_not_loaded(folder, extension):
    file = folder / BUILT.name
    file.write_bytes(extension.read_bytes().replace(b"roi_align(Tensor", b"something(Tensor"))
    with pytest.warns(UserWarning, match="built from older sources, without roi_align; .*call make"):
        assert "without roi_align" in library.absent("cpu")


def test_every_operator_of_the_sources_is_looked_for():
    sources = (ROOT / "csrc" / "library.cpp").read_text()
    assert sorted(library._DECLARED) == sorted(re.findall(r'"(\w+)\(Tensor', sources))


def test_the_switch(folder, monkeypatch, extension):
    monkeypatch.setenv(library.SWITCH, "1")
    assert status()["cpu"] == "torchvision's operator (CONVBODY_NO_EXTENSION is set)"
    monkeypatch.setenv(library.SWITCH, "0")
    library.absent.cache_clear()
    (folder / BUILT.name).symlink_to(extension)
    assert status()["cpu"] == "the extension"


def test_the_reference_serves_where_torchvision_does_not(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert status()["cpu"] == "the reference in PyTorch, slowly (the extension is not built)"


PYTEST = """
import sys, pytest
if sys.argv[1] == "the reference in PyTorch, slowly":
    sys.modules["torchvision"] = None
from backbones.ops import status
assert status()["cpu"].startswith(sys.argv[1]), status()
sys.exit(pytest.main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("serving", "parts"),
    [("torchvision's operator", ("", "_derivatives")), ("the reference in PyTorch, slowly", ("",))],
)
def test_the_operator_passes_its_tests_without_the_extension(serving, parts):
    tests = [str(Path(__file__).with_name(f"test_deform_conv{part}.py")) for part in parts]
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {**os.environ, library.SWITCH: "1"}
    command = [sys.executable, "-c", PYTEST, serving, *options, *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert " passed" in done.stdout
