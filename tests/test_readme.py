"""What the README shows works as it is printed."""

import re
from pathlib import Path

import pytest
import torch

from backbones import assert_backbone_contract, build_backbone
from convbody.detection import build_detector
from registry import UnknownNameError, load_cfg

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the root of a clone, with the README's two files in it; one, as a plugin loads once."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "mine.yaml").write_text(blocks("yaml")[0])
    (folder / "tiny.py").write_text(blocks("python")[0])
    return folder


@pytest.fixture
def clone(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(files)
    return files


def test_the_first_yaml_and_the_first_backbone_take_twelve_lines() -> None:
    for code in (blocks("yaml")[0], blocks("python")[0]):
        assert len([line for line in code.splitlines() if line.strip()]) == 12


def test_the_backbone_feeds_a_detector(clone: Path) -> None:
    cfg = load_cfg("mine.yaml")

    body = build_backbone(cfg).body
    assert type(body).__name__ == "Tiny"
    assert [tuple(feature.shape[1:]) for feature in body(torch.rand(1, 3, 64, 96))] == [
        (32, 16, 24),
        (64, 8, 12),
        (128, 4, 6),
        (256, 2, 3),
    ]
    (output,) = build_detector(cfg).eval()([torch.rand(3, 64, 96)])
    assert set(output) >= {"boxes", "labels", "scores"}


@pytest.mark.slow
def test_the_backbone_keeps_the_contract(clone: Path) -> None:
    load_cfg(None, plugins=["tiny.py"])
    assert_backbone_contract("Tiny-FPN")


def test_the_library_example_runs(clone: Path) -> None:
    names: dict[str, object] = {}
    exec(blocks("python")[1], names)
    features = names["features"]
    assert isinstance(features, list)
    assert [224 // feature.shape[2] for feature in features[:4]] == [4, 8, 16, 32]
    assert all(feature.shape[1] == 64 for feature in features)


def test_the_data_set_example_is_a_valid_config(clone: Path) -> None:
    (clone / "cats.yaml").write_text(blocks("yaml")[1])
    cfg = load_cfg("cats.yaml")
    assert set(cfg.DATASETS.CATALOG) == {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}


def test_the_error_reads_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text('MODEL:\n  BACKBONE:\n    CONV_BODY: "R-5O-FPN"\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError) as caught:
        load_cfg("mine.yaml")
    assert [f"error: {caught.value}\n"] == blocks("text")


def test_the_tools_it_names_exist() -> None:
    for tool in re.findall(r"tools/\w+\.py", README):
        assert (ROOT / tool).is_file(), tool
    targets = re.findall(r"^make (\w+)", README, re.MULTILINE)
    assert set(targets) <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"quickstart", "test"} <= set(targets)
