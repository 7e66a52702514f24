import math

import pytest
import torch
from ranks import run_ranks
from torch import nn

from backbones.layers.activated_norm import ActivatedBatchNorm2d, SyncActivatedBatchNorm2d
from backbones.layers.norm import FrozenBatchNorm2d, SyncBatchNorm, group_norm, norm_from_cfg
from backbones.layers.swap_norm import swap_batch_norms
from registry import NORMS, ConfigError, load_cfg


@pytest.mark.parametrize("word", ["FrozenBN", "BN", "GN", "SyncBN"])
def test_every_word_makes_a_norm_for_a_number_of_channels(word):
    x = torch.rand(2, 64, 3, 3)
    assert NORMS[word](64)(x).shape == x.shape
    assert norm_from_cfg(load_cfg(None), word)(64)(x).shape == x.shape


def test_frozen_norm_is_batch_norm_in_evaluation():
    frozen, reference = FrozenBatchNorm2d(5, eps=1e-5), nn.BatchNorm2d(5).eval()
    for name, tensor in frozen.state_dict().items():
        tensor.uniform_(0.5, 1.5)
        getattr(reference, name).data.copy_(tensor)
    x = torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(frozen(x), reference(x))
    assert list(frozen.state_dict()) == ["weight", "bias", "running_mean", "running_var"]
    assert not list(frozen.parameters())


def test_frozen_norm_adds_no_epsilon():
    norm = FrozenBatchNorm2d(2)
    norm.running_var.copy_(torch.tensor([0.0, 1e-5]))
    zero, small = norm(torch.ones(1, 2, 1, 1)).flatten().tolist()
    assert math.isnan(zero) and small == pytest.approx(316.227783203125)


def test_frozen_norm_computes_in_float32_and_keeps_its_buffers():
    norm = FrozenBatchNorm2d(1, eps=1e-5)
    norm.running_mean.fill_(1000.0)
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    x = torch.tensor([1000.0, 1008.0]).view(1, 1, 1, 2)
    out = norm(x.bfloat16())
    assert out.dtype == torch.bfloat16
    assert out.flatten().tolist() == pytest.approx([0.0, 8.0], abs=0.05)
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())


def test_group_norm_counts_groups_or_channels():
    assert group_norm(64).num_groups == 32
    assert group_norm(24, num_groups=-1, channels_per_group=8).num_groups == 3
    for wrong in ({"num_groups": -1}, {"channels_per_group": 8}):
        with pytest.raises(ConfigError, match="DIM_PER_GP"):
            group_norm(64, **wrong)
    with pytest.raises(ConfigError, match="48 channels"):
        group_norm(48)


def _sync_worker(folder):
    rank = torch.distributed.get_rank()
    x, norm = torch.load(f"{folder}/in.pth", weights_only=True), SyncBatchNorm(3)
    part = (x[:1] if rank == 0 else x[1:]).requires_grad_()  # shares of unequal size
    out = norm.train()(part)
    (out * out.detach().exp()).sum().backward()
    torch.save([out.detach(), part.grad, norm.running_mean, norm.running_var], f"{folder}/out{rank}.pth")


def _empty_worker(norms):
    """One process has no region, then none has: all go on, and nothing of no value is remembered."""
    rank = torch.distributed.get_rank()
    for norm, alone in norms:
        norm.train(), alone.train()
        x = torch.arange(24.0).view(2, 3, 2, 2).sin()
        alone(x)
        for part in (x[: 2 * rank], x[:0]):  # the first process has none
            out = norm(part.requires_grad_())
            out.sum().backward()
            assert out.shape == part.shape and out.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in norm.parameters())
        torch.testing.assert_close(norm.running_mean, alone.running_mean)
        torch.testing.assert_close(norm.running_var, alone.running_var)


def test_processes_without_a_region_take_part():
    activated = SyncActivatedBatchNorm2d(3, activation="elu"), ActivatedBatchNorm2d(3, activation="elu")
    run_ranks(2, _empty_worker, [(SyncBatchNorm(3), nn.BatchNorm2d(3)), activated])


@pytest.mark.parametrize("word", ["BN", "SyncBN", "ABN", "SyncABN", "GN"])
def test_no_regions_leave_the_statistics_as_they_are(word):
    norm = norm_from_cfg(load_cfg(None, ["MODEL.GROUP_NORM.NUM_GROUPS", 2]), word)(4).train()
    if hasattr(norm, "set_activation"):
        norm.set_activation("leaky_relu")
    before = {name: value.clone() for name, value in norm.named_buffers() if value.is_floating_point()}
    out = norm(torch.zeros(0, 4, 3, 3, requires_grad=True))
    out.sum().backward()
    assert out.shape == (0, 4, 3, 3) and not any(p.grad.any() for p in norm.parameters())
    assert all(torch.equal(value, before[name]) for name, value in norm.named_buffers() if name in before)


def test_sync_norm_is_batch_norm_over_all_processes(tmp_path):
    x = torch.randn(3, 3, 4, 5)
    torch.save(x, tmp_path / "in.pth")
    run_ranks(2, _sync_worker, tmp_path)
    reference = nn.BatchNorm2d(3)
    whole = x.clone().requires_grad_()
    out = reference(whole)
    (out * out.detach().exp()).sum().backward()
    shares = [torch.load(tmp_path / f"out{rank}.pth", weights_only=True) for rank in (0, 1)]
    torch.testing.assert_close(torch.cat([s[0] for s in shares]), out.detach())
    torch.testing.assert_close(torch.cat([s[1] for s in shares]), whole.grad, atol=1e-4, rtol=1e-4)
    for share in shares:
        torch.testing.assert_close(share[2], reference.running_mean)
        torch.testing.assert_close(share[3], reference.running_var)


def test_swapping_keeps_weights_names_and_epsilon():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=1e-3), nn.Sequential(nn.BatchNorm2d(8)))
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    x = torch.randn(2, 3, 6, 6)
    before, names = net.eval()(x), [k for k in net.state_dict() if "num_batches" not in k]
    swap_batch_norms(net, FrozenBatchNorm2d)
    torch.testing.assert_close(net(x), before)
    assert list(net.state_dict()) == names
    assert net[1].eps == 1e-3
