"""The pictures of the report, where images have become unreadable."""

from __future__ import annotations

import shutil

from oracle_detector import OracleDetector, open_shapes, shapes_config

from convbody.detection.evaluation import evaluate
from convbody.detection.report.samples import samples


def test_images_that_cannot_be_read_are_left_out(shapes, tmp_path, caplog):
    copy = tmp_path / "shapes"
    shutil.copytree(shapes, copy)
    cfg = shapes_config(copy, "DATASETS.ON_ERROR", "skip")
    dataset = open_shapes(copy, cfg)
    model = OracleDetector(dataset)
    (copy / "images" / "000002.png").write_bytes(b"gone before the evaluation")
    result = evaluate(model, dataset, cfg)
    drawn = samples(result, dataset, each=3)
    assert sorted(sample.name for sample in drawn) == [f"00000{i}.png" for i in (1, 3, 4, 5, 6, 7)]
    assert all(sample.detections == sample.objects for sample in drawn), "each beside its own predictions"
    (copy / "images" / "000004.png").write_bytes(b"gone before the report")
    assert {sample.name for sample in samples(result, dataset, each=3)} == {s.name for s in drawn} - {
        "000004.png"
    }
    assert "000004.png: not an image" in caplog.text and "the report does without it" in caplog.text
