"""The momenta of an optimiser, out of a checkpoint; its hyperparameters stay those of the config at hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convbody.training import parallel
from convbody.training.checkpoint import MisfitError

#: What an optimiser keeps of each parameter.
_KEPT = {
    torch.optim.SGD: {"momentum_buffer"},
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
}


def check_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], path: Path) -> None:
    """Raise MisfitError unless ``saved``, an OptimizerState of ``path``, is of the same parameters."""
    groups = optimizer.param_groups
    theirs = [group.get("names") for group in saved["param_groups"]]
    ours = [group.get("names") for group in groups]
    if theirs != ours:
        moved = sorted(_flat(theirs) ^ _flat(ours)) or ["the same ones in other groups"]
        raise MisfitError(
            f"{path} cannot be resumed: it trains other parameters than this config, such as {moved[0]} "
            f"({len(moved)} in all); resume with its own config, or start anew with MODEL.WEIGHT {path}"
        )
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    parameters = [parameter for group in groups for parameter in group["params"]]
    if numbers != list(range(len(parameters))):
        raise MisfitError(f"{path} cannot be resumed: its optimizer has other numbers of parameters")
    for number, kept in saved["state"].items():
        if number not in range(len(parameters)) or not _fits(kept, parameters[number], type(optimizer)):
            raise MisfitError(
                f"{path} cannot be resumed: its optimizer's state of parameter {number} is of another one"
            )


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Take over the momenta of ``saved``, which ``check_optimizer`` accepts."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shares = {
        number: {key: parallel.share(value, parameters[number]) for key, value in kept.items()}
        for number, kept in saved["state"].items()
    }
    optimizer.load_state_dict({"state": shares, "param_groups": optimizer.state_dict()["param_groups"]})


def _fits(kept: Mapping[str, Tensor | None], parameter: Tensor, kind: type[torch.optim.Optimizer]) -> bool:
    """Whether all is there that the optimiser keeps of a parameter, of its shape (a step is one number)."""
    if kept.keys() != _KEPT[kind]:
        return False
    for name, value in kept.items():
        if value is None:
            if name != "momentum_buffer":
                return False
        elif value.shape != (() if name == "step" else parameter.shape) or not value.is_floating_point():
            return False
    return True


def _flat(groups: list[Any]) -> set[str]:
    return {name for names in groups for name in names or ()}
