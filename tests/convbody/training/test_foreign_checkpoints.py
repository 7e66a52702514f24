"""Files that read well and are not what this run has written: they are passed over like damaged ones."""

import copy
import tempfile
from pathlib import Path

import pytest
import torch
import training_toy as toy
from hypothesis import event, given, settings
from hypothesis import strategies as st

from convbody.training import CheckpointError, read_checkpoint
from convbody.training.checkpoint import CheckpointFolder, write_checkpoint
from convbody.training.ema import ModelEma
from convbody.training.resume import begin
from convbody.training.schedule import build_optimizer
from convbody.training.state import TrainingState
from convbody.training.step import Step

CHANGES = {
    "SOLVER__OPTIMIZER": "AdamW",
    "SOLVER__EMA__ENABLED": True,
    "SOLVER__CHECKPOINT_PERIOD": 1,
}
SCALER = {
    "scale": 2.0,
    "growth_factor": 2.0,
    "backoff_factor": 0.5,
    "growth_interval": 9,
    "_growth_tracker": 0,
}
TENSORS = ("conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
TENSORS += ("norm.num_batches_tracked", "head.weight", "head.bias")


class Payloads(tuple):
    """Hypothesis prints what a test gets, and they are long."""

    def __repr__(self):
        return "the files"


@pytest.fixture(scope="module")
def payloads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    toy.run(folder, toy.config(**CHANGES, SOLVER__MAX_ITER=2), evaluate=None)
    checkpoints = CheckpointFolder(folder / "checkpoints")
    return Payloads(read_checkpoint(checkpoints.path(number), TrainingState.kind) for number in (1, 2))


def new_state():
    cfg, model = toy.config(**CHANGES), toy.network().train()
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    return TrainingState(cfg, model, build_optimizer(cfg, model), scaler, ModelEma(model, 0.5))


@pytest.fixture(scope="module")
def state():
    return new_state()


def write(folder, first, second):
    checkpoints = CheckpointFolder(folder)
    for payload, iteration in ((first, 1), (second, 2)):
        write_checkpoint(payload, checkpoints.path(iteration))
    return checkpoints


def resume(folder, first, second):
    """Goes on for an iteration with these two files; the iteration it begins at."""
    state = new_state()
    start = begin(state, write(folder, first, second), resume=True)
    step = Step(state, toy.losses, lambda batch: batch[2], torch.device("cpu"))
    step.forward_backward(toy.stream(4, start))
    step.update(start + 1)
    return start


def put(payload, path, value):
    """A copy of a payload with another value at a path of keys."""
    changed = copy.deepcopy(payload)
    node = changed
    for key in path[:-1]:
        if isinstance(node[key], tuple):
            node[key] = list(node[key])
        node = node[key]
    if value is MISSING:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return changed


class Missing:
    """Stands for no value at all; its text is the same in every process that collects the tests."""

    def __str__(self) -> str:
        return "missing"


MISSING = Missing()
WRONG = [
    *(((key,), MISSING) for key in ("model", "iteration", "ema", "optimizer", "optimizer_name", "scaler")),
    *(((key,), MISSING) for key in ("random", "config")),
    *((("model", name), MISSING) for name in TENSORS),
    *((("ema", name), MISSING) for name in TENSORS),
    (("model", "conv.weight"), torch.zeros(8, 3, 3, 2)),
    (("model", "conv.weight"), torch.zeros(8, 3, 3, 3, dtype=torch.float64)),
    (("model", "conv.weight"), [0.0]),
    (("model", "more"), torch.zeros(1)),
    (("ema",), []),
    (("iteration",), 1),
    (("iteration",), -2),
    (("iteration",), True),
    (("iteration",), 2.0),
    (("iteration",), torch.tensor(2)),
    (("optimizer",), {}),
    (("optimizer", "state"), []),
    (("optimizer", "state", 0, "exp_avg"), torch.zeros(1)),
    (("optimizer", "state", 0, "exp_avg"), None),
    (("optimizer", "state", 0, "exp_avg"), MISSING),
    (("optimizer", "state", 0, "step"), torch.zeros(8, 3, 3, 3)),
    (("optimizer", "state", 0, "exp_avg_sq"), torch.zeros(8, 3, 3, 3, dtype=torch.int64)),
    (("optimizer", "state", 99), {"step": torch.zeros(())}),
    (("optimizer", "param_groups"), []),
    (("optimizer", "param_groups", 0, "names"), MISSING),
    (("optimizer", "param_groups", 0, "names", 0), "head.weight"),
    (("optimizer", "param_groups", 0, "params", 0), 7),
    (("optimizer_name",), "SGD"),
    (("optimizer_name",), None),
    (("scaler",), None),
    (("scaler",), SCALER | {"scale": float("nan")}),
    (("scaler",), SCALER | {"scale": -1.0}),
    (("scaler",), SCALER | {"growth_factor": 0.5}),
    (("scaler",), SCALER | {"_growth_tracker": "0"}),
    (("scaler",), {"scale": 2.0}),
    (("random",), []),
    (("random",), torch.zeros(3)),
    (("random", 0), None),
    (("random", 0, "torch"), torch.zeros(5056, dtype=torch.uint8)),
    (("random", 0, "torch"), torch.zeros(16)),
    (("random", 0, "cuda"), torch.zeros(3, dtype=torch.uint8)),
    (("random", 0, "numpy", 1), torch.zeros(3, dtype=torch.int64)),
    (("random", 0, "numpy", 2), 2**40),  # numpy itself ends by a signal here
    (("random", 0, "python", 1), (1, 2)),
    (("random", 0, "python", 1), (-1,) * 625),
    (("config",), "- a list"),
    (("config",), "a: ["),
    (("config",), {"SEED": 0}),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda part: str(part)[:40])
def test_the_one_before_is_used(path, value, payloads, state, tmp_path):
    first, second = payloads
    found = write(tmp_path, first, put(second, path, value)).newest(state.kind, state.check)
    assert found.payload["iteration"] == 1
    ((passed_over, reason),) = found.passed_over
    assert passed_over.name in str(reason) and "\n" not in str(reason)


def test_it_is_named_and_set_aside(payloads, tmp_path, caplog):
    first, second = payloads
    assert resume(tmp_path, first, {"model": second["model"]}) == 1
    warning = caplog.records[0].message
    assert "iter_0000002.pth is no checkpoint of this program" in warning and "iter_0000001.pth" in warning
    assert (tmp_path / "iter_0000002.pth.damaged").exists()


def test_the_files_as_they_are_serve(payloads, tmp_path):
    assert resume(tmp_path, *payloads) == 2


def test_where_every_file_is_of_another_model_none_is_set_aside(payloads, tmp_path):
    """It is then the config that has changed."""
    wrong = [put(payload, ("model", "more"), torch.zeros(1)) for payload in payloads]
    with pytest.raises(CheckpointError, match="iter_0000002.pth is of another model: 1 tensors differ"):
        resume(tmp_path, *wrong)
    assert len(CheckpointFolder(tmp_path).files()) == 2


JUNK = st.one_of(
    st.just(MISSING),
    st.none(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from([[], {}, (), [{}], {"a": 1}, {0: []}, {1: {2: 3}}]),
    st.builds(torch.zeros, st.sampled_from([(), (0,), (1,), (8,), (8, 3, 3, 3)])),
)


def places(node, path=()):
    """Every place in a payload but those inside long rows of numbers."""
    if isinstance(node, dict | list | tuple) and len(node) < 100:
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield (*path, key)
            yield from places(child, (*path, key))


@settings(max_examples=50)
@given(data=st.data())
def test_whatever_stands_anywhere_in_a_file_the_run_goes_on(payloads, data):
    first, second = payloads
    path = data.draw(st.sampled_from(list(places(second))))
    changed = put(second, path, data.draw(JUNK))
    event(f"at {path[0]}")
    with tempfile.TemporaryDirectory() as folder:
        assert resume(Path(folder), first, changed) in (1, 2)
