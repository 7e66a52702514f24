"""The latency table: how long each candidate of each layer takes on one device, as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from convbody.data.files import write_atomically
from convbody.search.space import Layer, SearchSpace
from registry import Config, ConfigError, ConvbodyError

FIRST = "first"  # stands for the convolution before the layers
_KEY = "SEARCH.LATENCY"
_MEASURE = "measure one with tools/search_fbnet.py latency"

#: Options of MODEL.FBNET that change how long a block of given widths takes.
_BLOCK_OPTIONS = ("BN_TYPE", "ACTIVATION", "WIDTH_DIVISOR", "DW_CONV_SKIP_BN", "DW_CONV_SKIP_RELU")


class TableError(ConvbodyError):
    """A latency table that cannot be read, or that does not fit the search."""


@dataclass
class LatencyTable:
    """What was measured, and under which conditions.

    Attributes:
        conditions: of every sample; a table with others cannot stand in for it.
        facts: for readers: how time was taken, clocks of the device, versions.
        samples: microseconds of each entry, one value for each round of measuring.
    """

    conditions: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)

    def microseconds(self, entry: str) -> float:
        """The median of an entry's rounds. Raises TableError where there is none."""
        if not self.samples.get(entry):
            raise TableError(f"the latency table has no entry {entry!r}; {_MEASURE}")
        return median(self.samples[entry])

    def spread(self, entry: str) -> float:
        """The middle half of an entry's rounds, as a share of their median; 0 for a single round."""
        values = torch.tensor(self.samples[entry], dtype=torch.float64)
        low, high = values.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()
        return (high - low) / self.microseconds(entry)

    def write(self, path: Path) -> None:
        """Write the table; a kill leaves the one before. Raises TableError where that is not possible."""
        content = {"conditions": self.conditions, "facts": self.facts, "samples_us": self.samples}
        try:
            write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
        except OSError as error:
            raise TableError(f"cannot write {path}: {error.strerror}") from error


@dataclass(frozen=True)
class Latencies:
    """The table as the search reads it.

    Attributes:
        first: microseconds of the convolution before the layers.
        blocks: float64 (layers, candidates), microseconds.
    """

    first: float
    blocks: Tensor

    def expected(self, shares: Tensor) -> Tensor:
        """Microseconds of a mixture of architectures; ``shares`` (layers, candidates) add up to 1 a layer."""
        return self.first + (shares * self.blocks.to(shares)).sum()

    def of(self, space: SearchSpace, choice: Sequence[str]) -> float:
        """Microseconds of one architecture."""
        indices = [space.candidates.index(op) for op in choice]
        return self.first + sum(self.blocks[layer, index].item() for layer, index in enumerate(indices))


def entry_of(layer: Layer, op: str) -> str | None:
    """The name of a candidate's entry; None for the identity, which takes no time."""
    if op == "skip" and layer.stride == 1 and layer.in_channels == layer.out_channels:
        return None
    return f"{op} {layer.in_channels}->{layer.out_channels} /{layer.stride} at {layer.side}x{layer.side}"


def entries_of(space: SearchSpace) -> dict[str, tuple[Layer, str] | None]:
    """Every entry that a table of the space has, those of equal shape once, and what it is measured on."""
    entries: dict[str, tuple[Layer, str] | None] = {FIRST: None}
    for layer in space.layers:
        for op in space.candidates:
            if (entry := entry_of(layer, op)) is not None:
                entries.setdefault(entry, (layer, op))
    return entries


def read_table(path: Path) -> LatencyTable:
    """The table in a file. Raises TableError where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return LatencyTable(content["conditions"], content["facts"], content["samples_us"])
    except FileNotFoundError as error:
        raise TableError(f"there is no latency table {path}; {_MEASURE}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TableError(f"{path} is no latency table; {_MEASURE}") from error


def wanted_conditions(cfg: Config) -> dict[str, Any]:
    """What SEARCH.LATENCY and MODEL.FBNET say about a table, but for the device."""
    node = cfg.SEARCH.LATENCY
    return {
        "threads": node.THREADS,
        "batch": node.BATCH,
        "precision": node.PRECISION,
        "size": node.SIZE,
        "blocks": {name: cfg.MODEL.FBNET[name] for name in _BLOCK_OPTIONS},
    }


def latencies(cfg: Config, space: SearchSpace) -> Latencies:
    """The latencies of SEARCH.LATENCY.TABLE for a space.

    Raises:
        ConfigError: no table is named, or the one that is was measured under other conditions.
        TableError: it cannot be read, or an entry is missing.
    """
    node = cfg.SEARCH.LATENCY
    if not node.TABLE:
        raise ConfigError(f"name a latency table; {_MEASURE}", f"{_KEY}.TABLE", cfg)
    table = read_table(Path(node.TABLE))
    _check(table.conditions, cfg)
    rows = []
    for layer in space.layers:
        entries = [entry_of(layer, op) for op in space.candidates]
        rows.append([0.0 if entry is None else table.microseconds(entry) for entry in entries])
    found = Latencies(table.microseconds(FIRST), torch.tensor(rows, dtype=torch.float64))
    if found.first + found.blocks.amin(dim=1).sum() <= 1:
        raise TableError(f"{node.TABLE} has a network of 1 microsecond, whose logarithm is no loss")
    return found


def _check(conditions: Mapping[str, Any], cfg: Config) -> None:
    node = cfg.SEARCH.LATENCY
    names = conditions.get("device"), conditions.get("device_name")
    if node.DEVICE not in names:
        raise ConfigError(
            f"{node.TABLE} is of another device, {names[0]} ({names[1]})", f"{_KEY}.DEVICE", cfg
        )
    for name, value in wanted_conditions(cfg).items():
        if name == "threads" and names[0] != "cpu":
            continue
        if conditions.get(name) != value:
            key = "MODEL.FBNET" if name == "blocks" else f"{_KEY}.{name.upper()}"
            raise ConfigError(
                f"{node.TABLE} was measured with {name} {conditions.get(name)}, not {value}; {_MEASURE}",
                key,
                cfg,
            )
