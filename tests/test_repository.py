"""What holds for the repository as a whole."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import convbody
from registry import load_cfg

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("registry", "backbones", "convbody")
LONGEST_FILE = 400  # lines; past about 350 a file is asking to be two ideas


def files(suffix: str, *folders: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for top in folders for path in (ROOT / top).rglob(f"*{suffix}"))


@pytest.mark.parametrize(
    "path", files(".py", *PACKAGES, "tools", "scripts", "tests", "examples", "benchmarks")
)
def test_a_file_is_one_idea(path: str) -> None:
    assert len((ROOT / path).read_text().splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("path", files(".yaml", "configs"))
def test_every_shipped_config_loads(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    load_cfg(path)


def test_the_changelog_tells_of_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert convbody.__version__ in headings


@pytest.mark.parametrize(
    "page", sorted(path.name for path in ROOT.glob("*.md")) + files(".md", "docs", "examples")
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


@pytest.mark.slow
def test_a_wheel_holds_the_three_packages_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.not_built.txt")
    for name in (*PACKAGES, "tests", "tools", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)

    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, source], check=True)

    (wheel,) = tmp_path.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.partition("/")[0] for name in names} == set(PACKAGES)
    # Every file travels: code, catalogs and templates alike.
    expected = [path.relative_to(source) for name in PACKAGES for path in (source / name).rglob("*")]
    assert sorted(names) == sorted(str(path) for path in expected if (source / path).is_file())
