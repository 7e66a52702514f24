"""What ABN saves, as benchmarks/tresnet_memory.py measures it."""

from __future__ import annotations

import torch
import tresnet_memory


def test_bytes_are_those_of_what_autograd_keeps():
    layer = torch.nn.Linear(5, 3)
    net = torch.nn.Sequential(layer, torch.nn.Sigmoid(), torch.nn.Identity())
    # The input of the linear layer and the output of the sigmoid, in float32.
    assert tresnet_memory.saved_bytes(net, torch.rand(2, 5)) == 4 * (2 * 5 + 2 * 3)


def test_abn_keeps_a_fifth_less_than_batch_norm_and_activation():
    images = torch.rand(2, 3, 64, 64)
    kept = {n: tresnet_memory.saved_bytes(tresnet_memory.classifier(n), images) for n in ("ABN", "BN")}
    assert kept["ABN"] <= 0.81 * kept["BN"]
