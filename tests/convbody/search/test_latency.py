"""The table: read without measuring, refused where it does not fit."""

import json
from pathlib import Path

import pytest
import torch

from convbody.search.latency import TableError, entries_of, latencies, read_table
from convbody.search.space import space_from_cfg
from registry import ConfigError, get_cfg


def edit_table(path, **conditions):
    content = json.loads(path.read_text())
    content["conditions"] |= conditions
    path.write_text(json.dumps(content))


def test_equal_shapes_are_one_entry_and_the_identity_is_none(search_cfg):
    entries = entries_of(space_from_cfg(search_cfg()))
    assert len(entries) == 1 + 3 + 4 + 3  # first, 8->8, 8->16 at stride 2, 16->16 twice the same
    assert "ir_k5_e3 8->16 /2 at 16x16" in entries
    assert len(entries_of(space_from_cfg(get_cfg()))) == 103


def test_an_architecture_takes_the_sum_of_its_blocks(search_cfg):
    cfg = search_cfg()
    space = space_from_cfg(cfg)
    table = latencies(cfg, space)
    assert table.of(space, ["skip", "skip", "skip", "ir_k5_e3"]) == 20 + 0 + 10 + 0 + 120
    shares = torch.full((4, 4), 0.25, dtype=torch.float64)
    blocks = 0.25 * (3 * (30 + 25 + 120) + (30 + 25 + 120 + 10))
    assert table.expected(shares).item() == pytest.approx(20 + blocks)


def test_the_median_of_the_rounds_counts(search_cfg, tmp_path):
    table = read_table(Path(search_cfg().SEARCH.LATENCY.TABLE))
    table.samples["first"] = [1.0, 2.0, 90.0]
    assert table.microseconds("first") == 2.0
    assert table.spread("first") == pytest.approx((46.0 - 1.5) / 2.0)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (
            {"device": "cuda", "device_name": "a GPU"},
            r"another device, cuda \(a GPU\).*SEARCH.LATENCY.DEVICE",
        ),
        ({"precision": "bfloat16"}, "precision bfloat16, not float32.*SEARCH.LATENCY.PRECISION"),
        ({"size": 64}, "size 64, not 32.*SEARCH.LATENCY.SIZE"),
        ({"batch": 4}, "batch 4, not 1"),
        ({"threads": 8}, "threads 8, not 1"),
        ({"blocks": {}}, "MODEL.FBNET"),
    ],
)
def test_a_table_of_other_conditions_is_refused_in_one_line(search_cfg, conditions, message):
    cfg = search_cfg()
    edit_table(Path(cfg.SEARCH.LATENCY.TABLE), **conditions)
    with pytest.raises(ConfigError, match=message) as caught:
        latencies(cfg, space_from_cfg(cfg))
    assert "\n" not in str(caught.value)


def test_a_device_may_be_named_whole(search_cfg):
    cfg = search_cfg({"SEARCH.LATENCY.DEVICE": "made up"})
    latencies(cfg, space_from_cfg(cfg))
    edit_table(Path(cfg.SEARCH.LATENCY.TABLE), device_name="another")
    with pytest.raises(ConfigError, match="another device"):
        latencies(cfg, space_from_cfg(cfg))


def test_a_missing_entry_is_refused(search_cfg):
    cfg = search_cfg()
    path = Path(cfg.SEARCH.LATENCY.TABLE)
    content = json.loads(path.read_text())
    del content["samples_us"]["ir_k3_s2 16->16 /1 at 8x8"]
    path.write_text(json.dumps(content))
    with pytest.raises(TableError, match="no entry 'ir_k3_s2 16->16 /1 at 8x8'"):
        latencies(cfg, space_from_cfg(cfg))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"conditions": {}}'])
def test_a_file_that_is_no_table_is_refused(search_cfg, content):
    cfg = search_cfg()
    Path(cfg.SEARCH.LATENCY.TABLE).write_text(content)
    with pytest.raises(TableError, match="is no latency table"):
        latencies(cfg, space_from_cfg(cfg))


def test_a_table_has_to_be_named_and_to_be_there(search_cfg, tmp_path):
    cfg = search_cfg({"SEARCH.LATENCY.TABLE": ""})
    with pytest.raises(ConfigError, match="SEARCH.LATENCY.TABLE"):
        latencies(cfg, space_from_cfg(cfg))
    cfg = search_cfg({"SEARCH.LATENCY.TABLE": str(tmp_path / "none.json")})
    with pytest.raises(TableError, match=r"there is no latency table .*none\.json"):
        latencies(cfg, space_from_cfg(cfg))
