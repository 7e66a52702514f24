"""Precise statistics are those of many batches under the final weights, and leave no trace."""

from itertools import islice

import torch
import training_toy as toy

from convbody.training import read_checkpoint
from convbody.training.precise_bn import precise_statistics


def test_statistics_are_those_of_all_images_and_go_again():
    model = toy.network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    buffers = dict(model.named_buffers())
    images = torch.cat([batch[0] for batch in islice(toy.stream(8, 0), 5)])
    activations = model.conv(images)
    with precise_statistics(model, toy.losses, toy.stream(8, 0), 5):
        assert not model.training
        torch.testing.assert_close(model.norm.running_mean, activations.mean((0, 2, 3)))
        torch.testing.assert_close(model.norm.running_var, activations.var((0, 2, 3), unbiased=False))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(buffer is buffers[name] for name, buffer in model.named_buffers())
    assert model.norm.momentum == 0.1


def test_a_run_evaluates_with_them_and_trains_as_without(tmp_path, same_weights):
    options = {"SOLVER__TEST_PERIOD": 10, "SOLVER__MAX_ITER": 20}
    precise = {"SOLVER__PRECISE_BN__ENABLED": True, "SOLVER__PRECISE_BN__BATCHES": 6}
    plain, other = toy.network(), toy.network()
    without = toy.run(tmp_path / "without", toy.config(**options), plain)
    with_them = toy.run(tmp_path / "with", toy.config(**options, **precise), other)
    assert same_weights(plain.state_dict(), other.state_dict())
    assert with_them.evaluations != without.evaluations
    best = read_checkpoint(tmp_path / "with" / "checkpoints" / "best.pth")
    saved = read_checkpoint(tmp_path / "with" / "checkpoints" / f"iter_{best['iteration']:07d}.pth")
    assert torch.equal(best["model"]["conv.weight"], saved["model"]["conv.weight"])
    assert not torch.equal(best["model"]["norm.running_mean"], saved["model"]["norm.running_mean"])
