"""COCO files with any fault: the first iteration and an evaluation, or one report."""

import json
from pathlib import Path

import pytest
import torch
from fuzzing import Tally, fuzzed, mutated
from hypothesis import given
from hypothesis import strategies as st

from convbody.detection import build_detector
from convbody.detection.data.loader import build_test_dataset, build_train_batches
from convbody.detection.evaluation import evaluate
from registry import load_cfg


@pytest.mark.slow
def test_any_coco_file_trains_or_is_refused(pictures: Path, small_yaml: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(small_yaml)
    ann_file = tmp_path / "annotations.json"
    entry = {"image_dir": str(pictures / "images"), "ann_file": str(ann_file)}
    options = ["DATASETS.CATALOG", {"drawn": entry}, "DATASETS.TRAIN", ["drawn"], "DATASETS.TEST", ["drawn"]]
    cfg = load_cfg(tmp_path / "a.yaml", options)
    model = build_detector(cfg)
    whole = json.loads((pictures / "annotations.json").read_text())
    tally = Tally()

    def iterate() -> None:
        batches = build_train_batches(cfg)
        batch = next(iter(batches(0)))
        losses = model.train()(*batch[:2])
        assert all(torch.isfinite(loss) for loss in losses.values())
        evaluate(model.eval(), build_test_dataset(cfg, "drawn"), cfg)

    @fuzzed
    @given(mutated(whole), st.sampled_from(["fail", "skip", "skip"]), st.integers(0, 9))
    def fuzz(content: object, on_error: str, cut: int) -> None:
        text = json.dumps(content).encode("utf-8", "surrogatepass")
        ann_file.write_bytes(text if cut else text[: len(text) // 2])
        cfg.DATASETS.ON_ERROR = on_error
        tally.run(iterate)

    fuzz()
    tally.check()
