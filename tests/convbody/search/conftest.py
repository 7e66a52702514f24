"""A space of four layers, a table for it that is not measured but made up, and images of bars."""

import bars
import pytest

from convbody.search.latency import LatencyTable, entries_of, wanted_conditions
from convbody.search.space import space_from_cfg
from registry import load_cfg

OPTIONS = bars.OPTIONS | {
    "SOLVER.WARMUP_ITERS": 0,
    "SEARCH.SPACE.FIRST": (8, 2),
    "SEARCH.SPACE.BLOCKS": ([8, 1, 1], [16, 3, 2]),
    "SEARCH.SPACE.CANDIDATES": ("ir_k3_e1", "ir_k3_s2", "ir_k5_e3", "skip"),
    "SEARCH.SPACE.TRAIN_STRIDES": (1, 1, 2),
    "SEARCH.LATENCY.SIZE": 32,
    "SEARCH.EPOCHS": 3,
    "SEARCH.WARMUP_EPOCHS": 1,
}


@pytest.fixture
def search_cfg(tmp_path, monkeypatch):
    """``search_cfg({KEY: value})``: a config of the small space, whose table exists."""
    bars.write_bars(tmp_path / "datasets")
    monkeypatch.setenv("CONVBODY_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.setenv("CONVBODY_ARCHS", str(tmp_path / "archs"))

    def make(changes=None):
        named = {"OUTPUT_DIR": str(tmp_path / "run"), "SEARCH.LATENCY.TABLE": str(tmp_path / "table.json")}
        options = OPTIONS | named | (changes or {})
        return load_cfg(None, [part for pair in options.items() for part in pair])

    made_up_table(make(), tmp_path / "table.json")
    return make


def made_up_table(cfg, path):
    """Larger kernels and wider blocks take longer; the identity takes no time."""
    microseconds = {"first": 20.0, "ir_k3_e1": 30.0, "ir_k3_s2": 25.0, "ir_k5_e3": 120.0, "skip": 10.0}
    conditions = {"device": "cpu", "device_name": "made up", **wanted_conditions(cfg)}
    entries = entries_of(space_from_cfg(cfg))
    LatencyTable(
        conditions, {"versions": {}}, {entry: [microseconds[entry.split()[0]]] for entry in entries}
    ).write(path)
