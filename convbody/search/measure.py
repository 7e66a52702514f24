"""Measuring: the table of a space, whole networks, and how well the one tells the other."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from backbones.fbnet.body import FBNet
from convbody.search.clock import Clock, ProgressBar
from convbody.search.latency import (
    LatencyTable,
    TableError,
    entries_of,
    latencies,
    read_table,
    wanted_conditions,
)
from convbody.search.space import SearchSpace, space_from_cfg
from registry import Config, ConfigError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SAVE_SECONDS = 1.0


def measure_table(cfg: Config, rounds: int = 7) -> LatencyTable:
    """Measure every candidate of the space, as SEARCH.LATENCY says, into its TABLE.

    Each round takes all entries in another order, so that a machine's moods fall on all of them alike. What
    the file already holds is not measured again.

    Raises:
        ConfigError: no file is named, or a condition cannot be had here.
        TableError: the file holds something else, or cannot be written.
    """
    if not cfg.SEARCH.LATENCY.TABLE:
        raise ConfigError("name the file to write", "SEARCH.LATENCY.TABLE", cfg)
    space, clock, path = space_from_cfg(cfg), Clock(cfg), Path(cfg.SEARCH.LATENCY.TABLE)
    table = _begin(cfg, clock, path)
    calls = _Calls(cfg, space, clock)
    entries = entries_of(space)
    missing = [
        (number, entry)
        for number in range(rounds)
        for entry in random.Random(number).sample(list(entries), len(entries))
        if len(table.samples.get(entry, ())) <= number
    ]
    bar, saved = ProgressBar(len(missing)), time.monotonic()
    for _, entry in missing:
        table.samples.setdefault(entry, []).append(clock.microseconds(calls.of(entry)))
        if time.monotonic() - saved > _SAVE_SECONDS:
            table.write(path)
            saved = time.monotonic()
        bar.step(entry)
    table.write(path)
    return table


def measure_networks(
    cfg: Config, space: SearchSpace, choices: Sequence[Sequence[str]], rounds: int = 7
) -> list[float]:
    """Microseconds of whole networks, from the image to the last block, measured in turns."""
    clock = Clock(cfg)
    image = _image(cfg, clock, 3, cfg.SEARCH.LATENCY.SIZE)
    calls = [_call(cfg, clock, build_network(space, choice), image) for choice in choices]
    samples: list[list[float]] = [[] for _ in choices]
    bar = ProgressBar(rounds * len(choices))
    for number in range(rounds):
        for index in random.Random(number).sample(range(len(choices)), len(choices)):
            samples[index].append(clock.microseconds(calls[index]))
            bar.step(f"network {index + 1}")
    return [median(values) for values in samples]


@dataclass(frozen=True)
class Validation:
    """How well sums of the table predict whole networks.

    Attributes:
        predicted, measured: microseconds of each network.
        constant: what predictions are multiplied by, fitted to all of them.
        rank_correlation: Spearman's.
        mean_error: of the predictions times the constant, as a share of what was measured.
    """

    predicted: list[float]
    measured: list[float]
    constant: float
    rank_correlation: float
    mean_error: float


def validate(cfg: Config, networks: int = 30, seed: int = 0, rounds: int = 7) -> Validation:
    """Predict random architectures of the space from SEARCH.LATENCY.TABLE, and measure them.

    Raises:
        ConfigError, TableError: as ``latencies``.
    """
    space, generator = space_from_cfg(cfg), random.Random(seed)
    table = latencies(cfg, space)
    choices = [space.random(generator) for _ in range(networks)]
    predicted = [table.of(space, choice) for choice in choices]
    return judge(predicted, measure_networks(cfg, space, choices, rounds))


def judge(predicted: Sequence[float], measured: Sequence[float]) -> Validation:
    """Fit the constant, the geometric mean of measured / predicted, and compare; of two networks or more."""
    pairs = torch.tensor([predicted, measured], dtype=torch.float64)
    constant = float((pairs[1] / pairs[0]).log().mean().exp())
    ranks = pairs.argsort(dim=1).argsort(dim=1).double()
    error = fmean(abs(constant * guess / real - 1) for guess, real in zip(predicted, measured, strict=True))
    return Validation(list(predicted), list(measured), constant, float(torch.corrcoef(ranks)[0, 1]), error)


def build_network(space: SearchSpace, choice: Sequence[str]) -> FBNet:
    """The body of one architecture, as it would be for detection."""
    architecture = space.architecture(choice)
    return FBNet(architecture, architecture.blocks("backbone"), space.builder)


class _Calls:
    """The calls to measure, by entry. Modules stay, because every round wants them again."""

    def __init__(self, cfg: Config, space: SearchSpace, clock: Clock) -> None:
        self._cfg, self._space, self._clock = cfg, space, clock
        self._entries = entries_of(space)
        self._made: dict[str, Callable[[], Any]] = {}

    def of(self, entry: str) -> Callable[[], Any]:
        """What one measurement of ``entry`` calls."""
        if entry not in self._made:
            found = self._entries[entry]
            if found is None:
                block: nn.Module = self._space.first_convolution(3)
                image = _image(self._cfg, self._clock, 3, self._cfg.SEARCH.LATENCY.SIZE)
            else:
                layer, op = found
                block = self._space.block(layer, op)
                image = _image(self._cfg, self._clock, layer.in_channels, layer.side)
            self._made[entry] = _call(self._cfg, self._clock, block, image)
        return self._made[entry]


def _begin(cfg: Config, clock: Clock, path: Path) -> LatencyTable:
    """The table to go on with: what ``path`` holds, or an empty one."""
    conditions = {"device": clock.device.type, "device_name": clock.name, **wanted_conditions(cfg)}
    fresh = LatencyTable(conditions, clock.facts())
    if not path.exists():
        return fresh
    table = read_table(path)
    here = {**conditions, **fresh.facts["versions"]}
    there = {**table.conditions, **table.facts.get("versions", {})}
    for name, value in here.items():
        if there.get(name) != value:
            raise TableError(
                f"{path} was measured with {name} {there.get(name)}, and this is {value}; write another file"
            )
    return table


def _image(cfg: Config, clock: Clock, channels: int, side: int) -> Tensor:
    precision, batch = cfg.SEARCH.LATENCY.PRECISION, cfg.SEARCH.LATENCY.BATCH
    if precision not in _DTYPES:
        raise ConfigError(f"use {', '.join(_DTYPES)}", "SEARCH.LATENCY.PRECISION", cfg)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, side, side, generator=generator).to(clock.device, _DTYPES[precision])


def _call(cfg: Config, clock: Clock, module: nn.Module, image: Tensor) -> Callable[[], Any]:
    module = module.to(clock.device, _DTYPES[cfg.SEARCH.LATENCY.PRECISION]).eval()
    return lambda: module(image)
