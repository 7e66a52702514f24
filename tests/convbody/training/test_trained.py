"""Which file's weights are used where nothing is trained: one rule for every program."""

import logging

import pytest
import torch
from training_toy import network

from convbody.training.checkpoint import write_checkpoint
from convbody.training.trained import load_trained_weights
from registry import ConvbodyError, load_cfg

#: What every tensor of a file is filled with.
BEST, OLD, NEW, AVERAGE, NAMED, GIVEN = 1.0, 2.0, 3.0, 4.0, 5.0, 6.0


def filled(value):
    return {
        name: torch.full_like(tensor, value) for name, tensor in network().state_dict().items()
    }  # counters, too


@pytest.fixture
def load(tmp_path):
    """``load(named=, checkpoints=, weights=)``: the value that fills the model, and the file's name.

    ``named`` says where MODEL.WEIGHT is set: on the "command line", in a "file", or in the config "saved" by
    the run in OUTPUT_DIR. The checkpoints of that run are written first.
    """
    run = tmp_path / "run"
    named = tmp_path / "named.pth"
    torch.save(filled(NAMED), named)

    def make(checkpoints=(), where=None, weights=None):
        payloads = {
            "best": {"model": filled(BEST)},
            "iter_0000001": {"model": filled(OLD), "ema": None, "iteration": 1},
            "iter_0000002": {"model": filled(NEW), "ema": filled(AVERAGE), "iteration": 2},
        }
        for name in checkpoints:
            write_checkpoint(payloads[name], run / "checkpoints" / f"{name}.pth")
        options = ["OUTPUT_DIR", str(run)]
        path = None
        if where == "command line":
            options += ["MODEL.WEIGHT", str(named)]
        elif where == "file":
            path = tmp_path / "mine.yaml"
            path.write_text(f"MODEL: {{WEIGHT: {named}}}\n")
        elif where == "saved":
            run.mkdir(exist_ok=True)
            path = run / "config.yaml"
            path.write_text(load_cfg(None, [*options, "MODEL.WEIGHT", str(named)]).dump())
            options = []
        model = network()
        file = load_trained_weights(model, load_cfg(path, options), weights).file
        values = {tensor.flatten()[0].item() for tensor in model.state_dict().values()}
        assert len(values) == 1
        return values.pop(), file.rpartition("/")[2]

    return make


ALL = ("best", "iter_0000001", "iter_0000002")
RUNS_BEST, RUNS_NEWEST, THE_NAMED = (BEST, "best.pth"), (AVERAGE, "iter_0000002.pth"), (NAMED, "named.pth")


@pytest.mark.parametrize(
    ("checkpoints", "where", "expected"),
    [
        (ALL, None, RUNS_BEST),
        (ALL[1:], None, RUNS_NEWEST),
        (ALL[1:2], None, (OLD, "iter_0000001.pth")),
        (ALL, "command line", THE_NAMED),
        ((), "command line", THE_NAMED),
        (ALL, "file", RUNS_BEST),
        (ALL[1:], "file", RUNS_NEWEST),
        ((), "file", THE_NAMED),
        (ALL, "saved", RUNS_BEST),
        (ALL[1:], "saved", RUNS_NEWEST),
    ],
)
def test_the_file_that_counts_is_used_and_logged(load, caplog, checkpoints, where, expected):
    caplog.set_level(logging.INFO)
    assert load(checkpoints, where) == expected
    assert f"/{expected[1]}" in caplog.text


@pytest.mark.parametrize("where", [None, "command line", "file"])
def test_a_file_that_is_given_counts_before_all(load, tmp_path, where):
    torch.save({"model": filled(GIVEN)}, tmp_path / "given.pth")
    assert load(ALL, where, tmp_path / "given.pth") == (GIVEN, "given.pth")


def test_without_any_weights_the_error_says_what_to_do(load):
    with pytest.raises(ConvbodyError, match=r"no checkpoint in .*run/checkpoints; train .* MODEL\.WEIGHT"):
        load()


@pytest.mark.parametrize("where", ["command line", "file"])
def test_a_named_file_that_is_missing_is_an_error(load, tmp_path, where):
    (tmp_path / "named.pth").unlink()
    with pytest.raises(ConvbodyError, match=r"no such weight file.*named\.pth.*MODEL\.WEIGHT = .*set "):
        load((), where)


def test_a_file_that_lacks_some_weights_is_an_error(load, tmp_path):
    part = {name: tensor for name, tensor in filled(GIVEN).items() if name != "norm.bias"}
    torch.save({**part, "norm.bias": torch.zeros(3)}, tmp_path / "given.pth")
    with pytest.raises(ConvbodyError, match="fits 7 of the 8") as caught:
        load((), None, tmp_path / "given.pth")
    assert "\n" not in str(caught.value)


def test_checkpoints_of_another_model_are_an_error(load, tmp_path):
    write_checkpoint({"model": {"conv.weight": torch.zeros(3)}}, tmp_path / "run/checkpoints/best.pth")
    with pytest.raises(ConvbodyError, match=r"is of another model: .*config\.yaml"):
        load()
