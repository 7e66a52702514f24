"""The processes of a run: started by torchrun (NCCL between GPUs, gloo between CPUs), or a single one."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache
from itertools import chain
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from registry import Config, ConfigError, ConvbodyError

T = TypeVar("T")
#: Of gloo, which raises plain RuntimeErrors.
_LOST = ("Connection closed by peer", "Connection reset by peer")
_told_by_main: list[ConvbodyError] = []
logger = logging.getLogger(__name__)


def init_from_env() -> None:
    """Join the process group that torchrun's environment variables describe; without them, do nothing.

    CPU tensors always travel by gloo, so that a short message between processes never waits for a GPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        dist.init_process_group("cpu:gloo,cuda:nccl")
    else:
        dist.init_process_group("gloo")


def shutdown() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, 0 .. world_size() - 1."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """Number of this process among those on the same machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    """Whether this process writes files and the log."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    any_over_ranks(False)


def all_gather_object(value: T) -> list[T]:
    """``value`` of every process, in the order of ranks."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def broadcast_object(value: T) -> T:
    """``value`` of rank 0."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def on_main(function: Callable[[], T]) -> T:
    """What ``function`` gives on rank 0, which alone calls it; its ConvbodyError is raised on all ranks."""
    outcome: tuple[T | None, ConvbodyError | None] = (None, None)
    if is_main():
        try:
            outcome = function(), None
        except ConvbodyError as error:
            if world_size() == 1:
                raise
            outcome = None, error
    value, failure = broadcast_object(outcome)
    if failure is not None:
        if not is_main():
            _told_by_main.append(failure)
        raise failure
    return cast(T, value)


def is_told_by_main(error: BaseException) -> bool:
    """Whether ``error`` comes from ``on_main`` in another process, whose output has it."""
    return error in _told_by_main


def is_lost_peer(error: BaseException) -> bool:
    """Whether ``error`` says that another process of the run has ended, so that nothing can be exchanged."""
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in _LOST)


def any_over_ranks(*flags: bool) -> list[bool]:
    """For each flag, whether it is set in any process."""
    if world_size() == 1:
        return list(flags)
    counts = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(counts, op=dist.ReduceOp.MAX)
    return [bool(count) for count in counts.tolist()]


def broadcast_state(model: nn.Module) -> None:
    """Give every process rank 0's parameters and buffers."""
    _broadcast(*chain(model.parameters(), model.buffers()))


def broadcast_buffers(model: nn.Module) -> None:
    """Give every process rank 0's buffers: each computes the batch-norm statistics of its own images."""
    _broadcast(*model.buffers())


@torch.no_grad()
def _broadcast(*tensors: Tensor) -> None:
    if world_size() == 1:
        return
    for tensor in tensors:
        packed = tensor.detach().contiguous()  # channels_last weights are not, and backends want it
        dist.broadcast(packed, src=0)
        if packed.data_ptr() != tensor.data_ptr():
            tensor.copy_(packed)


def device_for(cfg: Config) -> torch.device:
    """The device of this process by ``MODEL.DEVICE``: a GPU each; the CPU where there is none.

    Raises ConfigError for a device that does not exist.
    """
    try:
        device = torch.device(cfg.MODEL.DEVICE)
    except RuntimeError:
        raise ConfigError("no such kind of device; use cuda or cpu", "MODEL.DEVICE", cfg) from None
    if device.type != "cuda":
        _check_works(device, cfg)
        return device
    if not torch.cuda.is_available():
        _say_no_gpu()
        return torch.device("cpu")
    if device.index is not None and world_size() > 1:
        raise ConfigError("with several processes, write cuda: each takes its own GPU", "MODEL.DEVICE", cfg)
    index = local_rank() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(f"GPU {index} asked for, but this machine has {count}", "MODEL.DEVICE", cfg)
    return torch.device("cuda", index)


def _check_works(device: torch.device, cfg: Config) -> None:
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            "this torch does not compute on it; use cuda or cpu", "MODEL.DEVICE", cfg
        ) from error


@cache
def _say_no_gpu() -> None:
    logger.info("no GPU found: running on the CPU")
