import json

import pytest

from convbody.training import metrics
from convbody.training.metrics import MetricsLog, Progress


def test_rows_after_the_resumed_iteration_and_half_lines_are_dropped(tmp_path):
    with MetricsLog(tmp_path, 0, tensorboard=False) as log:
        for iteration in (10, 20, 30):
            log.add({"iteration": iteration, "loss": 1.0})
            log.add({"iteration": iteration, "eval": {"AP": 0.1 * iteration}})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"iteration": 40, "lo')
    with MetricsLog(tmp_path, 20, tensorboard=False) as log:
        assert log.evaluations == {10: {"AP": 1.0}, 20: {"AP": 2.0}}
        log.add({"iteration": 30, "loss": 3.0})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["iteration"], "eval" in row) for row in rows] == [
        (10, False), (10, True), (20, False), (20, True), (30, False),
    ]  # fmt: skip


def test_a_new_run_starts_an_empty_file(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0, "eval": {}}\n')
    with MetricsLog(tmp_path, 0, tensorboard=False) as log:
        assert log.evaluations == {}
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_the_share_of_time_that_training_waited_for_data_is_logged(monkeypatch, caplog):
    clock = iter([100.0, 110.0, 110.0])  # begun, reported, begun anew
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(clock))
    progress = Progress(max_iter=8, images_per_iteration=2)
    for waited in (0.5, 1.0, 0.5, 1.0):
        progress.add({"loss_a": 1.0}, data_seconds=waited)
    with caplog.at_level("INFO", logger="convbody"):
        row = progress.report(4, lr=0.1)
    assert (row["time"], row["data_time"]) == (2.5, 0.75)
    assert row["data_share"] == pytest.approx(0.3)
    assert "waiting for data 30%" in caplog.text
