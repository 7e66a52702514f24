import json

from convbody.training.metrics import MetricsLog


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
