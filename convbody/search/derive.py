"""From a trained choice to architectures: files that are bodies from then on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from convbody.data.files import write_atomically
from convbody.search.checkpoint import SearchCheckpoint
from convbody.search.latency import Latencies, entry_of, latencies, read_table
from convbody.search.measure import build_network, measure_networks
from convbody.search.space import SearchSpace, space_from_cfg
from convbody.training.checkpoint import CheckpointError, CheckpointFolder, MisfitError
from registry import FBNET_ARCHS, Config, ConfigError, ConvbodyError

_DIRS = "MODEL.FBNET.ARCH_DIRS"


@dataclass(frozen=True)
class Derived:
    """One architecture and what is known of it: microseconds, 1e9 multiply-adds, parameters of the body."""

    name: str
    path: Path
    choice: tuple[str, ...]
    expected_us: float
    measured_us: float
    gflops: float
    parameters: int


def read_choice(cfg: Config, space: SearchSpace) -> tuple[Tensor, int]:
    """The choice (layers, candidates) in the newest checkpoint of OUTPUT_DIR, and the steps done until then.

    Raises CheckpointError where there is none, or it is of another space.
    """
    folder = CheckpointFolder(Path(cfg.OUTPUT_DIR) / "checkpoints")

    def check(payload: dict[str, Any], path: Path) -> None:
        theta = payload["model"]["theta"]
        if list(theta.shape) != [len(space.layers), len(space.candidates)]:
            raise MisfitError(f"{path} is no search of this space; derive with the config of the search")
        if payload["space"]["candidates"] != list(space.candidates):
            raise MisfitError(f"{path} has other candidates; derive with the config of the search")

    newest = folder.newest(SearchCheckpoint, check)
    if newest is None:
        raise CheckpointError(
            f"no checkpoint in {folder.folder}; search first, with tools/search_fbnet.py train"
        )
    return newest.payload["model"]["theta"], newest.payload["iteration"]


def choices(space: SearchSpace, theta: Tensor, samples: int, seed: int) -> list[tuple[str, ...]]:
    """The likeliest candidate of each layer; or ``samples`` architectures, drawn by ``seed``."""
    if samples == 0:
        picked = theta.argmax(1)[None]
    else:
        generator = torch.Generator().manual_seed(seed)
        picked = theta.softmax(1).multinomial(samples, replacement=True, generator=generator).t()
    return [tuple(space.candidates[index] for index in row) for row in picked.tolist()]


def derive(cfg: Config, name: str, *, samples: int = 0, seed: int = 0) -> list[Derived]:
    """Write architectures of the search in OUTPUT_DIR to the first folder of MODEL.FBNET.ARCH_DIRS.

    Args:
        name: of the file and of the body, FBNet-<name>; several samples are <name>_1, <name>_2, ...
        samples: how many to draw; 0: the likeliest one.
        seed: of the draws.

    Raises:
        ConfigError: no folder, or a name that is taken or cannot be one.
        ConvbodyError: no search to derive from, no table, or a folder that cannot be written.
    """
    folder = _folder(cfg)
    names = [name] if samples <= 1 else [f"{name}_{number}" for number in range(1, samples + 1)]
    for each in names:
        _check_free(each, folder, cfg)
    space = space_from_cfg(cfg)
    table = latencies(cfg, space)
    theta, step = read_choice(cfg, space)
    found = choices(space, theta, samples, seed)
    measured = _measured(cfg, space, found)
    derived = []
    for each, choice, microseconds in zip(names, found, measured, strict=True):
        gflops, parameters = _cost(cfg, space, choice)
        expected = table.of(space, choice)
        origin = {
            "search": str(cfg.OUTPUT_DIR),
            "step": step,
            "choice": "likeliest" if samples == 0 else f"drawn with seed {seed}",
            "table": str(cfg.SEARCH.LATENCY.TABLE),
            "conditions": {key: cfg.SEARCH.LATENCY[key] for key in ("DEVICE", "BATCH", "PRECISION", "SIZE")},
            "expected_us": round(expected, 1),
            "measured_us": round(microseconds, 1),
            "gflops": round(gflops, 4),
            "parameters": parameters,
        }
        path = folder / f"{each}.yaml"
        _write(path, space.definition(choice, origin))
        derived.append(Derived(each, path, choice, expected, microseconds, gflops, parameters))
    return derived


def chart(space: SearchSpace, table: Latencies, choice: Sequence[str]) -> str:
    """The blocks of an architecture, a line each, with their share of its latency as a bar."""
    total, lines = table.of(space, choice), []
    for number, (layer, op) in enumerate(zip(space.layers, choice, strict=True)):
        own = table.blocks[number, space.candidates.index(op)].item()
        shape = f"{layer.in_channels}->{layer.out_channels} /{layer.stride} at {layer.side}"
        what = op if entry_of(layer, op) else f"{op} (nothing)"
        lines.append(f"{number:3}  {shape:<18} {what:<16} {own:9.1f} us  {'#' * round(40 * own / total)}")
    return "\n".join(lines)


def _folder(cfg: Config) -> Path:
    names = cfg.MODEL.FBNET.ARCH_DIRS
    if not names:
        raise ConfigError("name the folder that architectures are written to", _DIRS, cfg)
    return Path(names[0])


def _check_free(name: str, folder: Path, cfg: Config) -> None:
    if not name.replace("_", "").isalnum():
        raise ConvbodyError(f"--name {name!r}: letters, digits and _ alone")
    taken = [path for path in (folder / f"{name}.yaml", folder / f"{name}.yml") if path.exists()]
    if name in FBNET_ARCHS or taken:
        where = str(taken[0]) if taken else "one that ships"
        raise ConvbodyError(f"--name {name}: there is an architecture of that name, {where}; choose another")


def _measured(cfg: Config, space: SearchSpace, found: Sequence[Sequence[str]]) -> list[float]:
    """Microseconds of whole networks here; NaN where the table is of another device."""
    from convbody.search.clock import Clock

    table = read_table(Path(cfg.SEARCH.LATENCY.TABLE))
    try:
        here = Clock(cfg).name
    except ConfigError:
        here = ""
    if here != table.conditions["device_name"]:
        return [float("nan")] * len(found)
    return measure_networks(cfg, space, found)


def _cost(cfg: Config, space: SearchSpace, choice: Sequence[str]) -> tuple[float, int]:
    """1e9 multiply-adds for one image, and parameters."""
    from fvcore.nn import FlopCountAnalysis

    network = build_network(space, choice).eval()
    size = cfg.SEARCH.LATENCY.SIZE
    count = FlopCountAnalysis(network, torch.zeros(1, 3, size, size)).unsupported_ops_warnings(False)
    return count.total() / 1e9, sum(parameter.numel() for parameter in network.parameters())


def _write(path: Path, definition: dict[str, Any]) -> None:
    text = yaml.safe_dump(definition, sort_keys=False, default_flow_style=None, width=110)
    try:
        write_atomically(path, f"# Searched: tools/search_fbnet.py derive\n{text}".encode())
    except OSError as error:
        raise ConvbodyError(f"cannot write {path}: {error.strerror}") from error
