import copy
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import run_ranks
from torch import nn
from torch.utils.checkpoint import checkpoint

from backbones.layers.activated_norm import (
    ActivatedBatchNorm2d,
    SyncActivatedBatchNorm2d,
    fuse_activation,
)
from backbones.layers.swap_norm import swap_batch_norms
from registry import NORMS, ConvbodyError

LAYERS = json.loads((Path(__file__).parents[1] / "golden" / "tresnet.json").read_text())["layers"]


def scrambled(norm, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in norm.state_dict().items():
        if tensor.is_floating_point():
            low = 0.5 if name in ("weight", "running_var") else -1.0
            tensor.uniform_(low, 1.5, generator=generator)
    return norm


def image(height, width, count, channels, seed=0):
    values = np.random.default_rng(seed).standard_normal((count, channels, height, width))
    return torch.from_numpy(values.astype(np.float32))


@pytest.mark.parametrize("case", LAYERS)
def test_it_is_the_published_layer_whose_scale_is_the_absolute_weight(case, published):
    activation, slope, mode = case.split("/")
    norm = ActivatedBatchNorm2d(8, activation=activation, slope=float(slope))
    for name, tensor in norm.state_dict().items():
        if not tensor.is_floating_point():
            continue
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        if name in ("bias", "running_mean"):
            values = generator.standard_normal(8) * 0.1
        else:
            values = generator.uniform(0.5, 1.5, 8)
        if name == "weight":
            signs = torch.from_numpy(np.where(generator.random(8) < 0.5, -1.0, 1.0)).float()
            values = values + norm.eps  # |signed value| + epsilon
        tensor.copy_(torch.from_numpy(values))
    x = image(5, 7, 3, 8).requires_grad_()
    y = norm.train(mode == "train")(x)
    (y * image(5, 7, 3, 8, seed=1)).sum().backward()
    want = LAYERS[case]
    published.assert_close([y, x.grad], [want["output"], want["grad_x"]], 1e-5)
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(norm.weight.grad * signs, torch.tensor(want["grad_weight"]), **close)
    torch.testing.assert_close(norm.bias.grad, torch.tensor(want["grad_bias"]), **close)
    torch.testing.assert_close(norm.running_mean, torch.tensor(want["running_mean_after"]), **close)
    torch.testing.assert_close(norm.running_var, torch.tensor(want["running_var_after"]), **close)
    assert norm.num_batches_tracked == want["num_batches_tracked"]


@pytest.mark.parametrize("activation", [None, "leaky_relu"])
def test_in_training_and_evaluation_it_has_the_state_and_the_numbers_of_batch_norm(activation):
    norm, reference = ActivatedBatchNorm2d(8, activation=activation), nn.BatchNorm2d(8)
    reference.load_state_dict(scrambled(norm).state_dict())
    act = nn.LeakyReLU(0.01) if activation else nn.Identity()
    for seed in range(3):
        x = image(5, 7, 3, 8, seed).to(memory_format=torch.channels_last)
        y = norm(x)
        torch.testing.assert_close(y, act(reference(x)))
        assert y.is_contiguous(memory_format=torch.channels_last)
    assert list(norm.state_dict()) == list(reference.state_dict())
    torch.testing.assert_close(norm.state_dict(), reference.state_dict())
    torch.testing.assert_close(norm.eval()(x), act(reference.eval()(x)))
    assert norm(x).is_contiguous(memory_format=torch.channels_last)
    assert norm(x[:0]).shape == (0, 8, 5, 7)


def saved_bytes(call):
    held = {}

    def pack(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = call()
    assert kept is not None
    return sum(t.untyped_storage().nbytes() for t in held.values())


def test_training_keeps_the_output_that_the_next_convolution_keeps_anyway():
    conv = nn.Conv2d(8, 8, 3)
    first = image(32, 32, 4, 8)
    both = [
        saved_bytes(lambda layers=layers: nn.Sequential(conv, *layers, conv)(first))
        for layers in (
            [ActivatedBatchNorm2d(8, activation="leaky_relu")],
            [nn.BatchNorm2d(8), nn.LeakyReLU(0.01, inplace=True)],
        )
    ]
    one = 4 * 8 * 30 * 30 * 4
    assert both[1] - both[0] == pytest.approx(one, abs=1000)


def test_frozen_it_keeps_nothing_of_its_input():
    norm = scrambled(ActivatedBatchNorm2d(8)).eval().requires_grad_(False)
    x = image(32, 32, 4, 8).requires_grad_()
    assert saved_bytes(lambda: norm(x * 1)) < 1000


def test_a_module_with_it_can_be_checkpointed_and_copied():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), ActivatedBatchNorm2d(8, activation="leaky_relu"))
    other = copy.deepcopy(net)
    x = image(8, 8, 2, 3)
    net(x).square().sum().backward()
    checkpoint(other, x, use_reentrant=False).square().sum().backward()
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_mixed_precision_keeps_statistics_in_float32():
    norm = ActivatedBatchNorm2d(8, activation="leaky_relu")
    reference = copy.deepcopy(norm)
    x = image(9, 9, 4, 8) * 0.01 + 100
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x.bfloat16())
    assert y.dtype == torch.bfloat16 == norm.eval()(x.bfloat16()).dtype
    reference(x.bfloat16().float())
    assert norm.running_mean.dtype == torch.float32
    torch.testing.assert_close(norm.running_mean, reference.running_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(norm.running_var, reference.running_var, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_training_compiles_without_a_graph_break():
    torch._dynamo.reset()
    net = nn.Sequential(nn.Conv2d(3, 8, 3), ActivatedBatchNorm2d(8, activation="leaky_relu"))
    other = copy.deepcopy(net)
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    x = image(12, 12, 2, 3)
    net(x).square().sum().backward()
    compiled(x).square().sum().backward()
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(net.state_dict(), other.state_dict())


def test_exported_it_is_an_affine_map():
    norm = scrambled(ActivatedBatchNorm2d(8, activation="leaky_relu")).eval()
    x = image(4, 4, 2, 8)
    program = torch.export.export(norm, (x,))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("batch_norm" in name or "autograd" in name.lower() for name in called), called
    torch.testing.assert_close(program.module()(x), norm(x))


def _sync_worker(folder):
    rank = torch.distributed.get_rank()
    norm = scrambled(SyncActivatedBatchNorm2d(3, activation="leaky_relu"))
    x = image(4, 5, 3, 3)
    part = (x[:1] if rank == 0 else x[1:]).requires_grad_()  # shares of unequal size
    out = norm(part)
    (out * out.detach().exp()).sum().backward()
    result = [out.detach(), part.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]
    torch.save(result, f"{folder}/out{rank}.pth")


def test_synchronised_it_takes_the_batch_of_all_processes(tmp_path):
    run_ranks(2, _sync_worker, tmp_path)
    reference = scrambled(ActivatedBatchNorm2d(3, activation="leaky_relu"))
    x = image(4, 5, 3, 3).requires_grad_()
    out = reference(x)
    (out * out.detach().exp()).sum().backward()
    shares = [torch.load(tmp_path / f"out{rank}.pth", weights_only=True) for rank in (0, 1)]
    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(torch.cat([s[0] for s in shares]), out.detach(), **close)
    torch.testing.assert_close(torch.cat([s[1] for s in shares]), x.grad, **close)
    torch.testing.assert_close(shares[0][2] + shares[1][2], reference.weight.grad, **close)
    torch.testing.assert_close(shares[0][3] + shares[1][3], reference.bias.grad, **close)
    for share in shares:
        torch.testing.assert_close(share[4:], [reference.running_mean, reference.running_var])


def test_as_a_norm_among_others_it_adds_no_activation():
    for word in ("ABN", "SyncABN"):
        net = nn.Sequential(nn.Conv2d(3, 8, 3), scrambled(nn.BatchNorm2d(8)), nn.ReLU(inplace=True))
        x = image(8, 8, 2, 3)
        wanted = net(x)
        swap_batch_norms(net, NORMS[word])
        out = net(x)
        torch.testing.assert_close(out, wanted)
        out.sum().backward()  # a ReLU in place is no harm


def test_only_an_activated_norm_takes_the_activation():
    assert not fuse_activation(nn.BatchNorm2d(4), "leaky_relu", 0.1)
    norm = ActivatedBatchNorm2d(4)
    assert fuse_activation(norm, "leaky_relu", 0.1)
    assert "activation=leaky_relu(0.1)" in repr(norm)


@pytest.mark.parametrize(("arguments", "message"), [(("relu",), "elu.*'relu'"), (("leaky_relu", 0.0), "0.0")])
def test_what_cannot_be_undone_is_refused(arguments, message):
    with pytest.raises(ConvbodyError, match=message):
        ActivatedBatchNorm2d(4).set_activation(*arguments)
