"""MODEL.WEIGHT: from a file into a backbone or a detector, by whole names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn

from backbones.weights.contract import check_contract
from backbones.weights.lineages import LINEAGES
from backbones.weights.places import body_prefix, deformable_slots, places
from backbones.weights.read import Names, counts, read_weights
from backbones.weights.report import LoadReport, grouped
from backbones.weights.rules import Lineage, Renamed, State, changed
from backbones.weights.source import KEY, shown
from registry import Config, ConfigError

#: The body is useless with fewer of its tensors than this.
ENOUGH = 0.9
#: Types of weights.
_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


#: Makes a tensor of a file one for the module: (name in the module, tensor, what the module has, notes of the
#: file, its lineage) -> tensor.
Adapt = Callable[[str, Tensor, Tensor, Mapping[str, Names], str], Tensor]


def load_weights(
    module: nn.Module, path: str | Path, cfg: Config | None = None, adapt: Adapt | None = None
) -> LoadReport:
    """Fills ``module``, a backbone or a detector, from a ``.pth``, ``.pkl`` or ``.safetensors`` file.

    The file may hold a detector, a training checkpoint (``{"model": ...}``), a backbone (``body.*``,
    ``fpn.*``) or a body alone, in our names or those of any lineage in ``lineages``; names match as a whole.
    A plain convolution fills the one inside a deformable convolution, whose offsets stay as they are.
    What does not fit is left as it was and reported. ``path`` may also be an address or a name, as
    ``source.local_file`` takes them. ``cfg`` is held to what the weights expect of it (see ``contract``), and
    tells errors where things were set. ``adapt`` may change a tensor before it is looked whether it fits.

    Raises:
        ConfigError: no such file, a file that holds no tensors, one that gives less than 90 % of the tensors
            of the body (parameters and norm buffers, but not offsets that stay as they are), one of a body
            with more blocks, or one with weights that are not finite real numbers; says what did not fit. Or
            ``cfg`` contradicts what the weights were trained with.
    """
    target = module.state_dict()
    file = read_weights(path, cfg)
    reading = _best_reading(file.tensors, module, target)
    fitting, unexpected, wrong_shape, unsound = {}, [], [], []
    for name, tensor in reading.state.items():
        own = reading.place_of(name)
        if own is None or own in fitting:
            if counts(name):
                unexpected.append(name)
            continue
        if reason := _unsound(tensor, target[own]):
            unsound.append(f"{name} is {reason}")
            continue
        tensor = changed(tensor, reading.renamed[name])
        if adapt is not None:
            tensor = adapt(own, tensor, target[own], file.notes, reading.lineage.name)
        if tensor.shape != target[own].shape:
            wrong_shape.append((own, tuple(tensor.shape), tuple(target[own].shape)))
        else:
            fitting[own] = tensor
    if unsound:
        raise ConfigError(
            f"{shown(path)} holds weights that are no finite real numbers: {', '.join(unsound[:3])}"
            f"{f' and {len(unsound) - 3} more' if len(unsound) > 3 else ''}",
            KEY,
            cfg,
        )
    clashing = {name for name, _, _ in wrong_shape}
    initialised = _left_initialised(module, fitting, clashing)
    given = fitting.keys() | clashing | set(initialised)
    missing = tuple(name for name in target if name not in given and counts(name))
    loaded = tuple(name for name in fitting if counts(name))
    report = LoadReport(
        shown(path),
        reading.lineage.name,
        loaded,
        missing,
        tuple(unexpected),
        tuple(wrong_shape),
        file.contract,
        initialised,
        file.notes,
    )
    _require_enough(module, target, report, cfg)
    _refuse_deeper(reading, report, cfg)
    if cfg is not None and file.contract is not None:
        check_contract(file.contract, cfg, report.file)
    module.load_state_dict(fitting, strict=False)
    return report


@dataclass(frozen=True)
class _Reading:
    """One way to read a file: its tensors, their names in a detector of ours, and these names' places."""

    lineage: Lineage
    state: State
    renamed: Mapping[str, Renamed]
    places: Mapping[str, str]

    def place_of(self, name: str) -> str | None:
        """The name in the module that is filled, or None."""
        return self.places.get(self.renamed[name].name) if name in self.renamed else None


def _best_reading(file: State, module: nn.Module, target: Mapping[str, Tensor]) -> _Reading:
    """The reading of the file under which most of its tensors have a place."""
    return max(
        _readings(file, module, target),
        key=lambda reading: sum(reading.place_of(name) is not None for name in reading.renamed),
    )


def _readings(file: State, module: nn.Module, target: Mapping[str, Tensor]) -> Iterator[_Reading]:
    """Every way to read the file, as a detector or a part of one, in each naming that it may have."""
    every_places = list(places(module, target))
    for lineage in LINEAGES:
        if not lineage.marked(file):
            continue
        state = {name: tensor for name, tensor in file.items() if not lineage.ignores(name)}
        state = dict(lineage.complete(state)) if lineage.complete else state
        for held in every_places:
            for prefix in lineage.prefixes:
                yield _Reading(lineage, state, lineage.to_ours(state, prefix, held), held)


def _unsound(tensor: Tensor, own: Tensor) -> str:
    """What is wrong with the numbers that are to fill ``own``; "" if nothing is.

    Whole numbers are right for counters and indices, which are whole here, too.
    """
    if tensor.dtype not in _REAL and (own.is_floating_point() or tensor.dtype.is_floating_point):
        return str(tensor.dtype).removeprefix("torch.")
    if tensor.is_complex():
        return "complex"
    # In the type that it will have here: a float64 may be too large for float32.
    filling = tensor.to(own.dtype) if own.is_floating_point() else tensor
    return "NaN or infinite" if tensor.is_floating_point() and not filling.isfinite().all() else ""


def _left_initialised(module: nn.Module, fitting: State, clashing: Set[str]) -> tuple[str, ...]:
    """What predicts the offsets of the deformable convolutions that a plain one filled."""
    return tuple(
        name
        for slot in deformable_slots(module)
        if slot.weight in fitting and not any(name in fitting or name in clashing for name in slot.offsets)
        for name in slot.offsets
    )


def _require_enough(
    module: nn.Module, target: Mapping[str, Tensor], report: LoadReport, cfg: Config | None
) -> None:
    prefix = body_prefix(module)
    wanted = {name for name in target if name.startswith(prefix) and counts(name)}
    wanted.difference_update(report.initialised)
    found = wanted.intersection(report.loaded)
    if len(found) < ENOUGH * len(wanted):
        raise ConfigError(
            f"{report.file} fits {len(found)} of the {len(wanted)} tensors of the body, fewer than "
            f"{ENOUGH:.0%}: {report.summary()}",
            KEY,
            cfg,
        )


def _refuse_deeper(reading: _Reading, report: LoadReport, cfg: Config | None) -> None:
    """A file with more blocks than a stage of the body has is one of another body, though all of it fits."""
    if reading.lineage.cuts_bodies:
        return
    known = {part for name in reading.places for part in _parents(name)}
    beyond = []
    for file_name in report.unexpected:
        name = reading.renamed[file_name].name if file_name in reading.renamed else ""
        first = next((part for part in _parents(name) if part not in known), "")
        if name.startswith("backbone.body.") and first.rpartition(".")[2].isdigit():
            beyond.append(name.removeprefix("backbone."))
    if beyond:
        raise ConfigError(
            f"{report.file} holds a deeper body than this one, which has no {', '.join(grouped(beyond, 3))}; "
            "set MODEL.BACKBONE.CONV_BODY to that of the file",
            KEY,
            cfg,
        )


def _parents(name: str) -> list[str]:
    """All modules on the way to a tensor: "a", "a.b" of "a.b.weight"."""
    return list(accumulate(name.split(".")[:-1], lambda path, part: f"{path}.{part}"))
