"""Going on with something changed: what is taken over, what is said, what is refused."""

import pytest
import torch
import training_toy as toy
from torch import nn

from convbody.training import CheckpointError, read_checkpoint
from convbody.training.random_state import random_state, seed_everything, set_random_state
from convbody.training.resume import config_changes
from convbody.training.state import IterationStart


@pytest.fixture
def trained(tmp_path):
    toy.run(tmp_path, toy.config(SOLVER__MAX_ITER=5))
    return tmp_path


def test_another_model_is_refused(trained):
    with pytest.raises(
        CheckpointError, match=r"iter_0000005.pth is of another model: 5 tensors .* norm.weight"
    ):
        toy.run(trained, toy.config(), toy.network(norm=False), resume=True)


def test_other_trained_parameters_are_refused(trained):
    model = toy.network()
    model.conv.weight.requires_grad_(False)
    with pytest.raises(
        CheckpointError, match="trains other parameters than this config, such as conv.weight"
    ):
        toy.run(trained, toy.config(), model, resume=True)


def test_another_optimizer_is_refused(trained):
    with pytest.raises(
        CheckpointError, match="state of SGD and cannot be resumed with SOLVER.OPTIMIZER AdamW"
    ):
        toy.run(trained, toy.config(SOLVER__OPTIMIZER="AdamW"), resume=True)


def test_changed_settings_are_named_and_obeyed(trained, caplog):
    toy.run(trained, toy.config(SOLVER__MAX_ITER=10, SOLVER__MOMENTUM=0.5), resume=True)
    warning = next(record.message for record in caplog.records if record.levelname == "WARNING")
    assert "SOLVER.MOMENTUM was 0.9, is 0.5" in warning and "SOLVER.MAX_ITER was 5, is 10" in warning
    groups = read_checkpoint(trained / "checkpoints" / "iter_0000010.pth")["optimizer"]["param_groups"]
    assert {group["momentum"] for group in groups} == {0.5}


def test_an_unchanged_config_is_no_news(trained, caplog):
    toy.run(trained, toy.config(SOLVER__MAX_ITER=5, SOLVER__LOG_PERIOD=1), resume=True)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_an_average_can_join_later(trained, caplog):
    result = toy.run(trained, toy.config(SOLVER__EMA__ENABLED=True), resume=True)
    assert "has no average of weights" in caplog.text
    assert result.metrics


def test_config_changes_finds_nested_and_missing_keys():
    assert config_changes("A: {B: 1, C: 2}\nOUTPUT_DIR: x", "A: {B: 3}\nOUTPUT_DIR: y") == [
        "A.B was 1, is 3",
        "A.C was 2, is absent",
    ]


def test_a_checkpoint_carries_everything(trained):
    payload = read_checkpoint(trained / "checkpoints" / "iter_0000005.pth")
    expected = {"iteration", "model", "ema", "optimizer", "scaler", "random", "config", "versions"}
    assert payload.keys() >= expected
    assert payload["iteration"] == 5
    assert payload["versions"].keys() == {"convbody", "python", "torch", "numpy"}
    assert len(payload["random"]) == 1


class Everything(toy.ToyNet):
    """What a model may hold beside weights that are trained: frozen, shared and scalar ones, and buffers."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.tied = self.head
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("count", torch.tensor([3]))

    def forward(self, x):
        self.count += self.training
        return self.scale * self.frozen(super().forward(x))


def test_every_weight_is_in_the_files(tmp_path, same_weights):
    torch.manual_seed(7)
    model = Everything()
    result = toy.run(tmp_path, toy.config(SOLVER__EMA__ENABLED=True, SOLVER__MAX_ITER=5), model)
    payload, best = (
        read_checkpoint(tmp_path / "checkpoints" / name) for name in ("iter_0000005.pth", "best.pth")
    )
    assert len(payload["model"]) == 9 + 2 + 2 + 2
    assert same_weights(payload["model"], model.state_dict())
    assert same_weights(payload["ema"], result.model.state_dict())
    assert same_weights(best["model"], result.model.state_dict())


def test_every_weight_is_taken_from_the_file(tmp_path, same_weights):
    """A model of other weights, buffers included, ends with those of the file."""
    cfg = toy.config(SOLVER__EMA__ENABLED=True, SOLVER__MAX_ITER=5)
    toy.run(tmp_path, cfg, Everything())
    payload = read_checkpoint(tmp_path / "checkpoints" / "iter_0000005.pth")
    other = Everything()
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.add_(7)
    result = toy.run(tmp_path, cfg, other, resume=True)
    assert same_weights(other.state_dict(), payload["model"])
    assert same_weights(result.model.state_dict(), payload["ema"])


def draw():
    import random

    import numpy as np

    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist()


def test_random_state_of_every_generator_survives_a_file(tmp_path):
    seed_everything(3)
    draw()
    torch.save(random_state(), tmp_path / "state")
    expected = [draw(), draw()]
    seed_everything(4)
    assert draw() != expected[0]
    set_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert [draw(), draw()] == expected


def test_iteration_start_undoes_a_forward_pass(same_weights):
    model = toy.network().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    start = IterationStart(model)
    first = model(torch.ones(2, 3, 4, 4))
    assert not same_weights(model.state_dict(), before)
    start.put_back()
    assert same_weights(model.state_dict(), before)
    assert torch.equal(model(torch.ones(2, 3, 4, 4)), first)
