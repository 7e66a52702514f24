"""What goes into the bundle for a machine without network, and what keeps it from being called complete."""

import importlib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bundle(monkeypatch):
    """scripts/gpu/bundle.py."""
    monkeypatch.syspath_prepend(ROOT / "scripts" / "gpu")
    return importlib.import_module("bundle")


def wheel(folder, name, *requirements):
    """A wheel that asks for these packages."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    lines = [f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {line}" for line in requirements)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-1.0.dist-info/METADATA", "\n".join(lines) + "\n\ntext\n")
    return path


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("yacs-0.1.8-py3-none-any.whl", True),
        ("a-1-cp310-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("a-1-cp312-cp312-manylinux_2_28_x86_64.whl", True),
        ("a-1-cp311-cp311-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp312-cp312-linux_x86_64.whl", False),
        ("a-1-cp313-abi3-manylinux_2_28_x86_64.whl", False),
    ],
)
def test_only_wheels_for_the_machine_fit(bundle, name, fits):
    assert bundle.fits(Path(name)) is fits


def test_what_a_wheel_needs_must_be_in_the_bundle_or_on_the_machine(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "dependencies", lambda root: ["one>=1", 'two; python_version < "3.11"'])
    one = wheel(tmp_path, "one", "Numpy>=1", "typing_extensions", 'pywin32; sys_platform == "win32"')
    bundle.check_requirements([one])
    with pytest.raises(bundle.Incomplete, match="convbody needs one"):
        bundle.check_requirements([])
    three = wheel(tmp_path, "three", "four.five<2")
    with pytest.raises(bundle.Incomplete, match="three needs four-five"):
        bundle.check_requirements([one, three])


def test_convbody_needs_nothing_but_what_the_list_and_the_machine_have(bundle):
    needs = bundle.names(bundle.dependencies(ROOT))
    assert needs and needs <= bundle.PRESENT | set(bundle.WHEELS)


def test_a_bundle_that_is_too_large_is_refused(bundle, tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"0" * 1000)
    bundle.check_size(tmp_path, 1000)
    with pytest.raises(bundle.Incomplete, match="larger"):
        bundle.check_size(tmp_path, 999)


def test_the_fingerprint_follows_every_source(bundle, tmp_path):
    (tmp_path / "csrc" / "cuda").mkdir(parents=True)
    (tmp_path / "setup.py").touch()
    seen = {bundle.fingerprint(tmp_path)}
    for file in ("setup.py", "csrc/a.h", "csrc/cuda/b.cu"):
        (tmp_path / file).write_text(file)
        seen.add(bundle.fingerprint(tmp_path))
    (tmp_path / "csrc/a.h").rename(tmp_path / "csrc/c.h")
    seen.add(bundle.fingerprint(tmp_path))
    assert len(seen) == 5


def test_git_ignores_the_bundle():
    assert "/gpu_bundle/" in (ROOT / ".gitignore").read_text().splitlines()
