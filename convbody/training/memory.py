"""Out of memory: recognised, and answered with the batch that failed, one that should fit, and the keys."""

from __future__ import annotations

import resource
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convbody.training import distributed, parallel
from registry import Config, ConvbodyError

#: What torch's allocators say; the one of CPUs raises a plain RuntimeError.
_MARKS = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")
#: Memory beside what is kept for the backward pass, which comes and goes, as a share of it: on the safe side.
_PASSING = 1.0

Losses = Callable[[nn.Module, Any], dict[str, Tensor]]


class OutOfMemoryError(ConvbodyError):
    """An iteration does not fit into memory; the message says which batch should, and what to set."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _MARKS)


@contextmanager
def explained(cfg: Config, model: nn.Module, losses: Losses, batch: Any) -> Iterator[None]:
    """Turns running out of memory inside into an OutOfMemoryError; other errors pass.

    ``batch`` is that of this process: a tuple whose parts have an entry for each image.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        # Its frames hold what the failed pass has computed.
        traceback.clear_frames(error.__traceback__)
        reason = " ".join(str(error).split())[:200]
        raise OutOfMemoryError(_message(cfg, reason, fitting_images(model, losses, batch))) from None


def fitting_images(model: nn.Module, losses: Losses, batch: Any) -> int | None:
    """About how many images of ``batch`` fit into the memory that is free: fewer than it has, maybe none.

    Judged by what a pass with one or two images keeps for the backward pass; None where that fails for
    another reason than memory, or would need the other processes.
    """
    if parallel.is_divided(model):
        return None
    count, device = len(batch[0]), next(model.parameters()).device
    model.zero_grad()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    few = min(2, count - 1)
    if not few:
        return 0
    free = free_bytes(device)
    try:
        kept = kept_bytes(model, lambda: losses(model, tuple(part[:few] for part in batch)))
    except (RuntimeError, ValueError, MemoryError) as error:
        return 0 if is_out_of_memory(error) else None
    # Gradients, and as much again for the optimiser.
    fixed = 2 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return max(0, min(count - 1, int((free - fixed) / (kept / few * (1 + _PASSING)))))


def kept_bytes(model: nn.Module, forward: Callable[[], Any]) -> int:
    """Bytes that autograd keeps of a forward pass, without the model's own; memory kept twice counts once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return max(1, sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own))


def free_bytes(device: torch.device) -> int:
    """Bytes that this process can still have: of the GPU, or of the machine and its own limit."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = 1024 * int(facts["MemAvailable"].split()[0])
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return free
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return max(0, min(free, limit - pages * resource.getpagesize()))


def _message(cfg: Config, reason: str, fitting: int | None) -> str:
    size, processes = cfg.SOLVER.IMS_PER_BATCH, distributed.world_size()
    where = f", {size // processes} on this process" if processes > 1 else ""
    keys = "DTYPE bfloat16 or MODEL.BACKBONE.CHECKPOINT_STAGES ('all',) takes less for each image"
    if fitting is None:
        remedy = "lower SOLVER.IMS_PER_BATCH and raise SOLVER.ACCUMULATE as much"
    elif fitting == 0:
        remedy = "not even a single image fits; make images or the model smaller"
    else:
        fits = fitting * processes
        remedy = (
            f"about {fits} should fit: set SOLVER.IMS_PER_BATCH {fits}, and "
            f"SOLVER.ACCUMULATE {cfg.SOLVER.ACCUMULATE * -(-size // fits)} for as many images in an iteration"
        )
    return f"out of memory with a batch of {size} images{where}; {remedy}; {keys} ({reason})"
