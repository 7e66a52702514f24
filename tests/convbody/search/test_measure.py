"""Measuring, with a clock whose readings are known."""

from pathlib import Path

import pytest

from convbody.search import measure
from convbody.search.clock import Clock
from convbody.search.latency import TableError, entries_of, latencies, read_table
from convbody.search.measure import judge, measure_table, validate
from convbody.search.space import space_from_cfg
from registry import ConfigError


@pytest.fixture
def counted(monkeypatch):
    """The number of measurements so far; the n-th takes n microseconds."""
    calls = []

    def microseconds(self, call):
        call()
        calls.append(call)
        return float(len(calls))

    monkeypatch.setattr(Clock, "microseconds", microseconds)
    return calls


@pytest.fixture
def cfg(search_cfg, tmp_path):
    return search_cfg({"SEARCH.LATENCY.TABLE": str(tmp_path / "measured.json")})


def test_every_entry_is_measured_in_every_round_and_written(cfg, counted):
    table = measure_table(cfg, rounds=3)
    entries = entries_of(space_from_cfg(cfg))
    assert {entry: len(values) for entry, values in table.samples.items()} == dict.fromkeys(entries, 3)
    assert len(counted) == 3 * len(entries)
    assert read_table(Path(cfg.SEARCH.LATENCY.TABLE)) == table
    latencies(cfg, space_from_cfg(cfg))
    assert table.facts["versions"].keys() == {"convbody", "python", "torch", "cuda"}
    assert "MHz" in table.facts["clocks"]


def test_after_a_kill_only_the_rest_is_measured(cfg, counted, monkeypatch):
    monkeypatch.setattr(measure, "_SAVE_SECONDS", -1.0)  # after every entry

    class Killed(BaseException):
        pass

    def kill(self, what):
        if len(counted) == 7:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(measure.ProgressBar, "step", kill)
        measure_table(cfg, rounds=2)
    before = read_table(Path(cfg.SEARCH.LATENCY.TABLE)).samples
    assert sum(map(len, before.values())) == 7
    after = measure_table(cfg, rounds=2).samples
    assert len(counted) == 2 * len(entries_of(space_from_cfg(cfg)))
    assert all(after[entry][: len(values)] == values for entry, values in before.items())
    assert measure_table(cfg, rounds=2).samples == after
    assert len(counted) == 2 * len(after)


def test_a_table_of_other_conditions_is_not_gone_on_with(search_cfg, cfg, counted):
    measure_table(cfg, rounds=1)
    other = search_cfg({"SEARCH.LATENCY.TABLE": cfg.SEARCH.LATENCY.TABLE, "SEARCH.LATENCY.BATCH": 2})
    with pytest.raises(TableError, match="with batch 1, and this is 2"):
        measure_table(other, rounds=1)


def test_real_time_is_taken_and_wider_blocks_take_longer(cfg):
    cfg.merge_from_list(["SEARCH.LATENCY.SIZE", 96, "SEARCH.LATENCY.BATCH", 8])
    table = measure_table(cfg, rounds=5)
    assert table.facts["timer"] == "CPU time of one thread"
    times = [table.microseconds(f"{op} 8->8 /1 at 48x48") for op in ("ir_k3_e1", "ir_k5_e3")]
    assert 0 < times[0] < times[1]


def test_bfloat16(search_cfg, tmp_path, counted):
    options = {"SEARCH.LATENCY.PRECISION": "bfloat16", "SEARCH.LATENCY.TABLE": str(tmp_path / "half.json")}
    assert measure_table(search_cfg(options), rounds=1).conditions["precision"] == "bfloat16"


@pytest.mark.parametrize(
    ("key", "value"), [("DEVICE", "no such device"), ("THREADS", 0), ("PRECISION", "float8"), ("TABLE", "")]
)
def test_conditions_that_cannot_be_had_name_their_key(search_cfg, tmp_path, key, value):
    options = {"SEARCH.LATENCY.TABLE": str(tmp_path / "new.json"), f"SEARCH.LATENCY.{key}": value}
    with pytest.raises(ConfigError, match=f"SEARCH.LATENCY.{key}"):
        measure_table(search_cfg(options), rounds=1)


def test_a_prediction_is_judged_after_one_constant():
    exact = judge([1.0, 2.0, 4.0], [3.0, 6.0, 12.0])
    assert (exact.constant, exact.mean_error) == (pytest.approx(3), pytest.approx(0, abs=1e-12))
    assert exact.rank_correlation == pytest.approx(1)
    assert judge([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]).rank_correlation == pytest.approx(-1)
    swapped = judge([10.0, 11.0, 20.0, 30.0], [11.0, 10.0, 20.0, 30.0])
    assert swapped.rank_correlation == pytest.approx(0.8)
    assert swapped.mean_error == pytest.approx((1 / 11 + 1 / 10) / 4)


def test_whole_networks_are_measured(search_cfg):
    found = validate(search_cfg(), networks=4, rounds=1)
    assert len(found.measured) == len(found.predicted) == 4
    assert min(found.measured) > 0
