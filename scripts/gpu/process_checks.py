"""One process as a group of its own, over NCCL on a GPU and gloo on a CPU; batches that are copied ahead."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from exactness import relative_error
from rows import Rows
from runs import DRAWN_MASKS, Data
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

from backbones.layers.norm import SyncBatchNorm
from backbones.ops.activated_norm import activated_batch_norm
from convbody.data.files import ROOT_VARIABLE
from convbody.detection.data import build_train_batches
from convbody.detection.model import build_detector
from convbody.detection.train import detector_losses
from convbody.training.prefetch import OneAhead, on_device
from registry import Config, load_cfg


@contextmanager
def group(device: torch.device) -> Iterator[None]:
    """A process group of this process alone."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def check_group(rows: Rows, device: torch.device, data: Data) -> None:
    """Norms over all processes, and data-parallel training, where there is one: as without a group."""
    with group(device):
        for name, check in (("SyncBN", _sync_bn), ("SyncABN", _sync_abn)):
            title = f"{name} in a group of one process"
            with rows.guarded(title):
                error = check(device)
                rows.add(
                    title, error <= 1e-5, error, "relative error", "to the norm of one process; at most 1e-05"
                )
        title = "DDP in a group of one process"
        with rows.guarded(title):
            error = _ddp(device, config(data, device))
            # On a GPU the gradients of RoIAlign add up in any order.
            bound = 1e-3 if device.type == "cuda" else 0.0
            rows.add(
                title,
                error <= bound,
                error,
                "relative error",
                f"of gradients to those without; at most {bound:g}",
            )


def config(data: Data, device: torch.device) -> Config:
    """Mask R-CNN on the drawn pictures."""
    os.environ[ROOT_VARIABLE] = str(data.folder)
    return load_cfg(DRAWN_MASKS, ["MODEL.DEVICE", device.type, "SOLVER.IMS_PER_BATCH", 2])


def _sync_bn(device: torch.device) -> float:
    ours, plain = SyncBatchNorm(12).to(device), nn.BatchNorm2d(12).to(device)
    x, grad = torch.randn(3, 12, 9, 7, device=device) + 1, torch.randn(3, 12, 9, 7, device=device)
    found = []
    for norm in (ours, plain):
        leaf = x.clone().requires_grad_()
        out = norm(leaf)
        grads = torch.autograd.grad(out, (leaf, norm.weight, norm.bias), grad)
        found.append([out, *grads, norm.running_mean, norm.running_var])
    return max(relative_error(a, b) for a, b in zip(*found, strict=True))


def _sync_abn(device: torch.device) -> float:
    x, grad = torch.randn(3, 12, 9, 7, device=device) + 1, torch.randn(3, 12, 9, 7, device=device)
    weight, bias = torch.rand(12, device=device) + 0.5, torch.randn(12, device=device)
    found = []
    for sync in (True, False):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        leaf, scale, shift = leaves
        out, mean, var = activated_batch_norm(leaf, scale, shift, 1e-5, "leaky_relu", 0.1, sync)
        found.append([out, mean, var, *torch.autograd.grad(out, leaves, grad)])
    return max(relative_error(a, b) for a, b in zip(*found, strict=True))


def _ddp(device: torch.device, cfg: Config) -> float:
    torch.manual_seed(0)
    model = build_detector(cfg).to(device).train()
    batch = next(build_train_batches(cfg)(0))
    wrapped = DistributedDataParallel(
        copy.deepcopy(model),
        device_ids=[0] if device.type == "cuda" else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        static_graph=True,
    )
    found = []
    for each in (wrapped, model):
        for seed in (1, 2):  # a static graph is learnt in the first
            torch.manual_seed(seed)
            each.zero_grad()
            torch.stack(list(detector_losses(each, batch).values())).sum().backward()
        found.append([p.grad for p in each.parameters() if p.grad is not None])
    squares = [float((a.double() - b.double()).square().sum()) for a, b in zip(*found, strict=True)]
    return float((sum(squares) / sum(float(g.double().square().sum()) for g in found[1])) ** 0.5)


def check_prefetch(rows: Rows, device: torch.device, data: Data) -> None:
    """Batches that are copied to the device one ahead, beside those that are not."""
    cfg = config(data, device)
    plain = list(islice(build_train_batches(cfg)(0), 6))
    stream = build_train_batches(cfg)(0)
    ahead: Iterator[Any] = on_device(stream, device)
    if device.type == "cpu":
        ahead = OneAhead(stream, lambda batch: lambda: batch)
    busy = torch.rand(2000, 2000, device=device) if device.type == "cuda" else None
    same, places = [], set()
    for wanted in plain:
        given = next(ahead)
        if busy is not None:
            busy = (busy @ busy).clamp(0, 1)  # the GPU is behind while the next batch is copied
        own, right = ([t for t in tree_leaves(tree) if isinstance(t, Tensor)] for tree in (given, wanted))
        places |= {tensor.device.type for tensor in own}
        same.append(
            len(own) == len(right) and all(torch.equal(a.cpu(), b) for a, b in zip(own, right, strict=True))
        )
    rows.add("batches copied ahead are the same", all(same) and places == {device.type}, len(same), "batches")
