"""How the processes of a run share its model: each has a whole one (DDP), or a part of one (FSDP).

DDP: Li et al. 2020, arXiv 2006.15704. FSDP: Zhao et al. 2023, arXiv 2304.11277, in torch as ``fully_shard``.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from convbody.training import distributed
from convbody.training.schedule import Stages
from registry import Config, ConfigError

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

PARALLEL_KEY = "SOLVER.PARALLEL"
#: No buffers are sent in an iteration, in the words of the torch that is here.
_KEEP_BUFFERS: dict[str, Any] = (
    {"forward_sync_buffers": False}
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else {"broadcast_buffers": False}
)


def shard(cfg: Config, models: Sequence[nn.Module], stages: Stages) -> None:
    """Under "fsdp" with several processes, leaves each of them its share of every parameter of ``models``.

    ``stages`` are those of the first model; the others are copies of it. A stage's parameters are gathered
    while it computes, the rest's for a whole iteration. Build the optimiser afterwards.

    Raises:
        ConfigError: the model cannot be divided.
    """
    if cfg.SOLVER.PARALLEL != "fsdp" or distributed.world_size() == 1:
        return
    check_divisible(cfg, models[0])
    from torch.distributed.fsdp import fully_shard  # takes a second

    paths = {module: path for path, module in models[0].named_modules()}
    parts = [paths[module] for _, modules in stages for module in modules if _can_be_a_part(module, paths)]
    device = next(models[0].parameters()).device
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for model in models:
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()  # channels_last weights cannot be divided
        for path in parts:
            fully_shard(model.get_submodule(path), mesh=mesh)
        fully_shard(model, mesh=mesh)


def check_parallel(cfg: Config) -> None:
    """Raises ConfigError for no such way to train, or one that cannot be gone with this DTYPE."""
    if cfg.SOLVER.PARALLEL not in ("ddp", "fsdp"):
        raise ConfigError("no such way to train in parallel; use ddp or fsdp", PARALLEL_KEY, cfg)
    if cfg.SOLVER.PARALLEL == "fsdp" and distributed.world_size() > 1 and cfg.DTYPE == "float16":
        raise ConfigError("fsdp does not scale the loss of float16; use bfloat16 or ddp", PARALLEL_KEY, cfg)


def check_divisible(cfg: Config, model: nn.Module) -> None:
    """Raises ConfigError where several processes are to divide a model that cannot be divided."""
    if cfg.SOLVER.PARALLEL != "fsdp" or distributed.world_size() == 1:
        return
    for name, parameter in model.named_parameters():
        if parameter.ndim == 0:
            raise ConfigError(f"fsdp cannot divide the scalar {name}; use ddp", PARALLEL_KEY, cfg)


def _can_be_a_part(module: nn.Module, paths: dict[nn.Module, str]) -> bool:
    """Whether calling ``module`` is what uses its parameters: it is of the model, and no list of modules."""
    called = type(module).forward is not nn.Module.forward
    return module in paths and called and any(True for _ in module.parameters())


def is_divided(model: nn.Module) -> TypeGuard[FSDPModule]:
    """Whether ``shard`` has divided ``model`` itself."""
    if not _can_divide():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def _is_part(tensor: Any) -> TypeGuard[DTensor]:
    if not _can_divide():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _can_divide() -> bool:
    # Where ``shard`` has divided nothing, what does it is not loaded.
    return "torch.distributed.fsdp" in sys.modules


def wrap(cfg: Config, model: nn.Module, device: torch.device) -> nn.Module:
    """``model`` with gradients averaged over processes; buffers are sent only before they are used.

    The graph is taken to be static, every trainable parameter having a gradient in each iteration, which DDP
    asks for anyway; with several backward passes in an iteration, DDP knows no static graph.
    """
    if distributed.world_size() == 1 or is_divided(model):
        return model
    wrapped = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        static_graph=cfg.SOLVER.ACCUMULATE == 1,
        **_KEEP_BUFFERS,
    )
    if device.type == "cpu" and distributed.world_size() > 2:
        # A lambda, because torch compares annotations that are no strings.
        wrapped.register_comm_hook(None, lambda state, bucket: _average_each(bucket))
    return wrapped


def _average_each(bucket: dist.GradBucket) -> Future[Tensor]:
    """Averages the gradients of a bucket one by one, for a run that is resumed to the bit.

    In which order gloo adds up more than two processes depends on the place in the tensor, and DDP sorts the
    gradients into other buckets after its first iteration, which in a resumed run is another one.
    """
    flat = bucket.buffer().div_(distributed.world_size())
    parts = flat.split([parameter.numel() for parameter in bucket.parameters()])
    works = [dist.all_reduce(part, async_op=True).get_future() for part in parts]
    done: Future[Tensor] = torch.futures.collect_all(works).then(lambda _: flat)
    return done


def gradients_travel(model: nn.Module, now: bool) -> AbstractContextManager[None]:
    """While entered, a backward pass averages gradients over processes, if ``now``, or only adds them up."""
    if is_divided(model):
        model.set_requires_gradient_sync(now)
    if now or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()


@contextmanager
def assembled(model: nn.Module) -> Iterator[None]:
    """While entered, each process has the whole model, and may call it as often as it likes."""
    parts = [module for module in model.modules() if is_divided(module)]
    for part in parts:  # the whole model first: it makes the others its parts
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)
            part.reshard()


def local(tensor: Tensor) -> Tensor:
    """This process's share of ``tensor``, in the same memory; all of it where it is not divided."""
    return tensor.to_local() if _is_part(tensor) else tensor


def whole(tree: Any) -> Any:
    """``tree`` of dicts and lists with divided tensors gathered on the main process, and None on the others.

    A checkpoint made of it does not tell how many processes wrote it. Every process must call it.
    """
    if _is_part(tree):
        full = tree.full_tensor()
        return full.cpu() if distributed.is_main() else None
    if isinstance(tree, dict):
        gathered = copy(tree)  # with what else a state dict has, its versions
        gathered.update((key, whole(value)) for key, value in tree.items())
        return gathered
    return [whole(value) for value in tree] if isinstance(tree, list) else tree


def share(tensor: Any, like: Tensor) -> Any:
    """``tensor`` divided as ``like`` is, if it is one of that shape; the opposite of ``whole``."""
    if not _is_part(like) or not isinstance(tensor, Tensor) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
