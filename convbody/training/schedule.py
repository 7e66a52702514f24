"""Optimisers with their parameter groups, and the learning rate as a pure function of the iteration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler, ParamScheduler
from torch import nn

from registry import Config, ConfigError

#: A backbone's parts in order, stem first, as ``Backbone.stages()`` gives them.
Stages = Sequence[tuple[str, Sequence[nn.Module]]]


def build_optimizer(cfg: Config, model: nn.Module, stages: Stages = ()) -> torch.optim.Optimizer:
    """The optimiser ``SOLVER.OPTIMIZER`` over ``parameter_groups``. Raises ConfigError for an unknown one."""
    solver = cfg.SOLVER
    groups = parameter_groups(cfg, model, stages)
    if solver.OPTIMIZER == "SGD":
        return torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV)
    if solver.OPTIMIZER == "AdamW":
        return torch.optim.AdamW(groups, lr=solver.BASE_LR, betas=tuple(solver.BETAS))
    raise ConfigError("no such optimiser; use SGD or AdamW", "SOLVER.OPTIMIZER", cfg)


def parameter_groups(cfg: Config, model: nn.Module, stages: Stages = ()) -> list[dict[str, Any]]:
    """Every trainable parameter in exactly one group: ``params``, ``names``, ``lr_factor``, ``weight_decay``.

    Biases learn at BIAS_LR_FACTOR and decay by WEIGHT_DECAY_BIAS; other one-dimensional parameters (scales of
    normalisation layers) decay by WEIGHT_DECAY_NORM, which follows WEIGHT_DECAY while negative. With n
    ``stages``, stage k (0 is the stem) learns at LAYER_DECAY ** (n - k), and what is in no stage at 1
    (layer-wise learning rate decay; BEiT, Bao et al. 2021).

    Raises:
        ConfigError: nothing is trainable, or LAYER_DECAY is set for a model without stages.
    """
    solver = cfg.SOLVER
    if solver.LAYER_DECAY != 1.0 and not stages:
        raise ConfigError("this model has no stages to decay by; use 1.0", "SOLVER.LAYER_DECAY", cfg)
    norm_decay = solver.WEIGHT_DECAY_NORM if solver.WEIGHT_DECAY_NORM >= 0 else solver.WEIGHT_DECAY
    stage_factors = _stage_factors(solver.LAYER_DECAY, stages)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor, decay = stage_factors.get(parameter, 1.0), solver.WEIGHT_DECAY
        if "bias" in name.rpartition(".")[2]:
            factor, decay = factor * solver.BIAS_LR_FACTOR, solver.WEIGHT_DECAY_BIAS
        elif parameter.ndim <= 1:
            decay = norm_decay
        group = groups.setdefault(
            (factor, decay), {"params": [], "names": [], "lr_factor": factor, "weight_decay": decay}
        )
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise ConfigError(
            "no parameter is left to train: every one is frozen", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT"
        )
    return list(groups.values())


def _stage_factors(layer_decay: float, stages: Stages) -> dict[nn.Parameter, float]:
    return {
        parameter: layer_decay ** (len(stages) - index)
        for index, (_, modules) in enumerate(stages)
        for module in modules
        for parameter in module.parameters()
    }


def learning_rate(cfg: Config) -> Callable[[int], float]:
    """The learning rate of weights in iteration i = 0 .. MAX_ITER - 1 as a function of i alone.

    It is warm-up(i) * schedule(i / MAX_ITER). Multi-step: BASE_LR * GAMMA ** (number of STEPS <= i). Cosine:
    from BASE_LR to END_FACTOR * BASE_LR (SGDR, Loshchilov and Hutter 2016, section 3, without restarts).

    Raises:
        ConfigError: an unknown schedule or warm-up, STEPS that do not increase, or no iterations at all.
    """
    solver = cfg.SOLVER
    if solver.MAX_ITER < 1:
        raise ConfigError("a run needs at least one iteration", "SOLVER.MAX_ITER", cfg)
    schedule = _schedule(cfg)
    warmup = _warmup(cfg)
    return lambda iteration: warmup(iteration) * schedule(iteration / solver.MAX_ITER)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each parameter group ``rate`` times its ``lr_factor``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]


def _schedule(cfg: Config) -> ParamScheduler:
    solver = cfg.SOLVER
    if solver.SCHEDULE == "cosine":
        return CosineParamScheduler(solver.BASE_LR, solver.BASE_LR * solver.END_FACTOR)
    if solver.SCHEDULE != "multistep":
        raise ConfigError("no such schedule; use multistep or cosine", "SOLVER.SCHEDULE", cfg)
    steps = list(solver.STEPS)
    if any(step <= before for before, step in zip([0, *steps], steps, strict=False)):
        raise ConfigError("steps must be positive and increase", "SOLVER.STEPS", cfg)
    reached = [step for step in steps if step < solver.MAX_ITER]
    values = [solver.BASE_LR * solver.GAMMA**count for count in range(len(reached) + 1)]
    return MultiStepParamScheduler(values, num_updates=solver.MAX_ITER, milestones=reached)


def _warmup(cfg: Config) -> Callable[[int], float]:
    """The factor: until WARMUP_ITERS, WARMUP_FACTOR ("constant") or from it to 1 ("linear"); then 1."""
    start, length = cfg.SOLVER.WARMUP_FACTOR, cfg.SOLVER.WARMUP_ITERS
    if cfg.SOLVER.WARMUP_METHOD == "constant":
        return lambda iteration: start if iteration < length else 1.0
    if cfg.SOLVER.WARMUP_METHOD == "linear":
        return lambda iteration: start + (1 - start) * iteration / length if iteration < length else 1.0
    raise ConfigError("no such warm-up; use linear or constant", "SOLVER.WARMUP_METHOD", cfg)
