"""Small sets of labelled images, and configs that train on them in seconds."""

import bars
import pytest

from registry import load_cfg

OPTIONS = bars.OPTIONS | {
    "MODEL.BACKBONE.CONV_BODY": "R-20-CIFAR",
    "MODEL.CIFAR_RESNETS.IN_CHANNELS": 1,
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "SOLVER.MAX_ITER": 4,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.LOG_PERIOD": 2,
}


@pytest.fixture
def bars_root(tmp_path, monkeypatch):
    """The data sets' root, with bars_train and bars_test in it."""
    bars.write_bars(tmp_path / "datasets")
    monkeypatch.setenv("CONVBODY_DATASETS", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


@pytest.fixture
def cls_cfg(bars_root, tmp_path):
    """``cls_cfg({KEY: value})``: a config of four iterations on the bars."""

    def make(changes=None):
        options = OPTIONS | {"OUTPUT_DIR": str(tmp_path / "run")} | (changes or {})
        return load_cfg(None, [part for pair in options.items() for part in pair])

    return make
