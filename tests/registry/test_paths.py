"""Paths in configs: home folders, variables, and files beside the config."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import ConfigError, get_cfg, load_cfg
from registry.config import BESIDE_CONFIG, PATH_KEYS
from registry.paths import expand
from registry.tree import value_of


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.delenv("NOWHERE", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~/runs", "{home}/runs"),
        ("$SCRATCH/runs", "/scratch/me/runs"),
        ("${SCRATCH}_2/a", "/scratch/me_2/a"),
        ("runs/$SCRATCH", "runs//scratch/me"),
        ("a/~/b", "a/~/b"),
        ("price in $", "price in $"),
        ("https://host/$SCRATCH", "https://host/$SCRATCH"),
        ("", ""),
    ],
)
def test_home_and_variables(home: Path, written: str, meant: str) -> None:
    assert expand(written) == meant.format(home=home)


@pytest.mark.parametrize("written", ["$NOWHERE/a", "${NOWHERE}", "~nobody-has-this-name/a"])
def test_what_stands_for_nothing_is_refused_with_its_place(home: Path, written: str) -> None:
    (home / "a.yaml").write_text(f'OUTPUT_DIR: "{written}"\n')
    with pytest.raises(ConfigError, match=r"OUTPUT_DIR \(set in .*a\.yaml:1\)"):
        load_cfg(home / "a.yaml")


@given(st.text(st.characters(exclude_characters="$~", exclude_categories=["Cs"])))
def test_other_text_stays_as_it_is(text: str) -> None:
    assert expand(text) == text


def path_keys() -> list[str]:
    get_cfg()  # declares the sections
    return sorted(key for key in PATH_KEYS if "*" not in key and key != "PLUGINS")


@pytest.mark.parametrize("key", path_keys())
def test_every_path_key_is_expanded(home: Path, key: str) -> None:
    several = isinstance(value_of(get_cfg(), key), tuple)
    cfg = load_cfg(None, [key, ("~/x.yaml",) if several else "~/x.yaml"])
    assert value_of(cfg, key) == ((f"{home}/x.yaml",) if several else f"{home}/x.yaml")


def test_paths_of_data_sets_are_text_with_home_and_variables(home: Path) -> None:
    (home / "a.yaml").write_text(
        "DATASETS:\n  CATALOG:\n"
        "    hard-hat.v3: {image_dir: ~/images, ann_file: $SCRATCH/a.json}\n"
        "    2024: {image_dir: 1_000, ann_file: 2024}\n"
    )
    catalog = load_cfg(home / "a.yaml").DATASETS.CATALOG
    assert catalog["hard-hat.v3"] == {"image_dir": f"{home}/images", "ann_file": "/scratch/me/a.json"}
    assert catalog["2024"]["ann_file"] == "2024"


def test_the_saved_config_of_files_beside_a_config_works_elsewhere(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, elsewhere = home / "project", home / "elsewhere"
    (project / "archs").mkdir(parents=True)
    elsewhere.mkdir()
    (project / "nothing.py").write_text("")
    (project / "mine.yaml").write_text('PLUGINS: ["nothing.py"]\nMODEL: {FBNET: {ARCH_DIRS: [archs]}}\n')
    cfg = load_cfg(project / "mine.yaml")
    (elsewhere / "saved.yaml").write_text(cfg.dump())
    monkeypatch.chdir(elsewhere)
    again = load_cfg("saved.yaml")
    assert list(again.PLUGINS) == [str(project / "nothing.py")]
    assert list(again.MODEL.FBNET.ARCH_DIRS) == [str(project / "archs")]


def test_a_name_is_not_taken_for_a_folder_of_that_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BESIDE_CONFIG["MODEL.FBNET.ARCH"] == (".yaml", ".yml")
    (home / "default").mkdir()
    monkeypatch.chdir(home)
    assert load_cfg(None, ["MODEL.FBNET.ARCH", "default"]).MODEL.FBNET.ARCH == "default"
