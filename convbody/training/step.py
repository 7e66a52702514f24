"""One iteration: the gradients of its batches, then one update of the weights."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from convbody.training import distributed, parallel
from convbody.training.memory import OutOfMemoryError, explained
from convbody.training.rescue import draw
from convbody.training.state import TrainingState
from registry import Config, ConfigError, ConvbodyError

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast_dtype(cfg: Config) -> torch.dtype:
    """The precision ``DTYPE`` names. Raises ConfigError for an unknown one."""
    if cfg.DTYPE not in _DTYPES:
        raise ConfigError(f"no such precision; use {', '.join(_DTYPES)}", "DTYPE", cfg)
    return _DTYPES[cfg.DTYPE]


class NonFiniteLossError(ConvbodyError):
    """A loss is NaN or infinite; the message names the term, the iteration and the batch."""


@dataclass
class Outcome:
    """Of one iteration on this process: mean loss terms, seconds waited for data, why it does not count."""

    losses: dict[str, float] = field(default_factory=dict)
    data_seconds: float = 0.0
    failure: ConvbodyError | None = None


class Step:
    """Computes gradients and applies them, in the precision of the config and over all processes."""

    def __init__(
        self,
        state: TrainingState,
        losses: Callable[[nn.Module, Any], dict[str, Tensor]],
        batch_ids: Callable[[Any], list[str]],
        device: torch.device,
    ) -> None:
        self._state = state
        self._losses = losses
        self._batch_ids = batch_ids
        self._device = device
        self._dtype = autocast_dtype(state.cfg)
        self._model = parallel.wrap(state.cfg, state.model, device)
        self._explained: Callable[[], AbstractContextManager[None]] = nullcontext

    def forward_backward(self, stream: Iterator[Any]) -> Outcome:
        """Add up the gradients of ACCUMULATE batches, averaged over them and over processes.

        Where a process has no batch, or a loss is not finite, the iteration counts for none of them.
        """
        count, outcome = self._state.cfg.SOLVER.ACCUMULATE, Outcome()
        for number in range(1, count + 1):
            waiting = time.perf_counter()
            try:
                batch = draw(stream)
            except ConvbodyError as error:
                outcome.failure = error
                return outcome
            outcome.data_seconds += time.perf_counter() - waiting
            self._explained = partial(
                explained, self._state.cfg, self._state.model, self._autocast_losses, batch
            )
            try:
                with self._explained(), parallel.gradients_travel(self._model, number == count):
                    terms = self._autocast_losses(self._model, batch)
                    total = torch.stack([term.float() for term in terms.values()]).sum()
                    self._state.scaler.scale(total / count).backward()
            except OutOfMemoryError as error:
                if distributed.world_size() > 1:
                    raise  # the others wait for this process in the backward pass
                outcome.failure = error
                return outcome
            values = torch.stack([term.detach().float() for term in terms.values()]).tolist()
            for name, value in zip(terms, values, strict=True):
                outcome.losses[name] = outcome.losses.get(name, 0.0) + value / count
                if not math.isfinite(value) and not outcome.failure:
                    outcome.failure = NonFiniteLossError(
                        f"{name} is {value} (batch: {', '.join(self._batch_ids(batch))})"
                    )
        return outcome

    def _autocast_losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not torch.float32):
            return self._losses(model, batch)

    def update(self, done: int) -> None:
        """Clip gradients, update the weights and their average. ``done``: iterations done with this one."""
        cfg, optimizer, scaler = self._state.cfg, self._state.optimizer, self._state.scaler
        if cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
            scaler.unscale_(optimizer)
            _clip(cfg, self._state.model)
        scale = scaler.get_scale() if cfg.AMP_VERBOSE else 0.0
        with self._explained():  # the first update makes the optimiser's state
            scaler.step(optimizer)
        scaler.update()
        if cfg.AMP_VERBOSE and scaler.get_scale() != scale:
            logger.info("loss scale %g -> %g at iteration %d", scale, scaler.get_scale(), done)
        optimizer.zero_grad()
        if self._state.ema:
            self._state.ema.update(self._state.model, done)


def check_clipping(cfg: Config) -> None:
    """Raises ConfigError for a way to clip gradients that there is not."""
    if cfg.SOLVER.CLIP_GRADIENTS.ENABLED and cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE not in ("norm", "value"):
        raise ConfigError("no such way to clip; use norm or value", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", cfg)


@torch.no_grad()
def _clip(cfg: Config, model: nn.Module) -> None:
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.CLIP_TYPE == "norm":
        nn.utils.clip_grad_norm_(model.parameters(), clip.CLIP_VALUE, clip.NORM_TYPE)
        return
    for parameter in model.parameters():
        if parameter.grad is not None:
            parallel.local(parameter.grad).clamp_(-clip.CLIP_VALUE, clip.CLIP_VALUE)
