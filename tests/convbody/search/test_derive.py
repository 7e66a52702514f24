"""From a search to a body by name."""

from pathlib import Path

import pytest
import torch

from backbones import build_backbone
from backbones.fbnet.arch_file import read_source
from convbody.search.derive import chart, choices, derive
from convbody.search.latency import latencies
from convbody.search.space import space_from_cfg
from convbody.search.train import search
from convbody.training.checkpoint import CheckpointError
from registry import ConfigError, ConvbodyError

CERTAIN = ("ir_k5_e3", "ir_k3_e1", "skip", "ir_k3_s2")


@pytest.fixture
def searched(search_cfg, tmp_path):
    """The config of a search that ended, and the folder for architectures."""
    (tmp_path / "archs").mkdir()
    cfg = search_cfg({"MODEL.FBNET.ARCH_DIRS": [str(tmp_path / "archs")], "SEARCH.EPOCHS": 1})
    search(cfg)
    return cfg, tmp_path / "archs"


def test_the_likeliest_and_draws_by_seed(search_cfg):
    space = space_from_cfg(search_cfg())
    theta = torch.tensor([[float(op == wanted) * 50 for op in space.candidates] for wanted in CERTAIN])
    assert choices(space, theta, 0, 0) == [CERTAIN]
    assert choices(space, theta, 3, 5) == [CERTAIN] * 3
    flat = torch.zeros_like(theta)
    assert choices(space, flat, 3, 5) == choices(space, flat, 3, 5) != choices(space, flat, 3, 6)


def test_a_derived_architecture_is_a_body_with_its_origin_written_down(searched, search_cfg):
    cfg, folder = searched
    (found,) = derive(cfg, "my_search_01")
    assert found.path == folder / "my_search_01.yaml"
    origin = read_source(found.path).definition["provenance"]
    assert origin["choice"] == "likeliest" and origin["expected_us"] == pytest.approx(
        found.expected_us, abs=0.1
    )
    assert origin["parameters"] == found.parameters and found.gflops > 0
    body_cfg = search_cfg(
        {"MODEL.FBNET.ARCH_DIRS": [str(folder)], "MODEL.BACKBONE.CONV_BODY": "FBNet-my_search_01-FPN"}
    )
    body = build_backbone(body_cfg).eval()
    features = body(torch.zeros(1, 3, 64, 64))
    assert [feature.shape[-1] for feature in features][:1] == [16]
    parameters = sum(p.numel() for name, p in body.named_parameters() if name.startswith("body."))
    assert parameters == found.parameters


def test_several_draws_are_numbered(searched):
    cfg, folder = searched
    derive(cfg, "drawn", samples=2, seed=3)
    assert sorted(path.name for path in folder.iterdir()) == ["drawn_1.yaml", "drawn_2.yaml"]
    assert read_source(folder / "drawn_2.yaml").definition["provenance"]["choice"] == "drawn with seed 3"


def test_a_name_that_is_taken_is_refused(searched):
    cfg, folder = searched
    derive(cfg, "one")
    before = (folder / "one.yaml").read_bytes()
    with pytest.raises(ConvbodyError, match=r"one\.yaml; choose another"):
        derive(cfg, "one")
    assert (folder / "one.yaml").read_bytes() == before
    with pytest.raises(ConvbodyError, match="one that ships"):
        derive(cfg, "fbnet_c")
    with pytest.raises(ConvbodyError, match="letters, digits"):
        derive(cfg, "../one")


def test_what_is_missing_is_named(search_cfg, searched, tmp_path):
    with pytest.raises(ConfigError, match="MODEL.FBNET.ARCH_DIRS"):
        derive(search_cfg(), "x")
    dirs = {"MODEL.FBNET.ARCH_DIRS": [str(tmp_path / "archs")]}
    with pytest.raises(CheckpointError, match="search first"):
        derive(search_cfg(dirs | {"OUTPUT_DIR": str(tmp_path / "none")}), "x")
    other = dirs | {"SEARCH.SPACE.CANDIDATES": ("skip", "ir_k3_e1", "ir_k3_s2", "ir_k5_e3")}
    with pytest.raises(CheckpointError, match="other candidates"):
        derive(search_cfg(other), "x")
    assert list((tmp_path / "archs").iterdir()) == []


def test_the_chart_has_a_line_for_each_block(search_cfg):
    cfg = search_cfg()
    space = space_from_cfg(cfg)
    lines = chart(space, latencies(cfg, space), CERTAIN).splitlines()
    assert len(lines) == 4
    assert lines[0].split()[-1] == "#" * round(40 * 120 / (20 + 120 + 30 + 0 + 25))
    assert "skip (nothing)" in lines[2] and not lines[2].endswith("#")
    assert Path(cfg.SEARCH.LATENCY.TABLE).exists()
