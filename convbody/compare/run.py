"""What ``tools/compare.py`` does: both sides made, compared, and written down as asked."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from convbody.classification.loss import target_maker
from convbody.classification.model import image_channels
from convbody.compare.batch import random_images, random_scenes
from convbody.compare.models import from_config, named
from convbody.compare.observe import Side
from convbody.compare.page import write_page
from convbody.compare.port import compare_sides, compare_with_trace, enliven_norms, record_side
from convbody.compare.record import Batch, Record
from convbody.compare.table import as_json, text_table
from convbody.compare.trace import read_trace, write_trace
from convbody.compare.verdict import Comparison
from convbody.detection.inputs import TargetNeeds
from registry import Config, ConvbodyError


@dataclass(frozen=True)
class Request:
    """What to compare, as the command line says it.

    Attributes:
        model: the first side: "config:" with the path for the label, or another of ``models.FORMS``.
        against: the second side, or None to record only.
        changes: config keys of the second side, KEY, VALUE, ...
        part: "backbone", "classifier" or "detector".
        size, images: of the batch, (height, width) in pixels.
        steps: of the optimiser.
        own_weights: whether each side keeps the weights it is built with.
        record, json, html: where to write a trace of the first side, every place, and the page.
    """

    model: str
    against: str | None = None
    changes: tuple[str, ...] = ()
    part: str = "backbone"
    size: tuple[int, int] = (64, 64)
    images: int = 2
    steps: int = 1
    own_weights: bool = False
    record: Path | None = None
    json: Path | None = None
    html: Path | None = None


def run(cfg: Config, request: Request) -> int:
    """Compares, prints the table and writes what is asked for: 0 the same within rounding, 1 they part.

    Raises:
        ConvbodyError: anything a user can mend.
    """
    if request.steps < 1:
        raise ConvbodyError(f"--steps is {request.steps}; one step of the optimiser is the least")
    if request.model.startswith("config:"):
        first = from_config(cfg, request.part, request.model.removeprefix("config:") or "the defaults")
    else:
        first = named(request.model, cfg, request.part)
    if not (cfg.MODEL.WEIGHT or request.own_weights):
        enliven_norms(first.model, cfg.SEED)
    if request.against is None:
        record = record_side(first, _batch(cfg, first, request), steps=request.steps, seed=cfg.SEED)
        _finish(record, cfg, request)
        print(f"{len(record.places)} places of {record.label} recorded in {request.record}")
        return 0
    comparison = _compare(cfg, first, request.against, request)
    _finish(comparison.first, cfg, request)
    print(f"here:  {comparison.first.label}\nthere: {comparison.second.label}\n")
    print(text_table(comparison))
    if request.json:
        _write(request.json, json.dumps(as_json(comparison), indent=1))
    if request.html:
        write_page(comparison, request.html)
    return 0 if comparison.parting is None else 1


def _compare(cfg: Config, first: Side, against: str, request: Request) -> Comparison:
    if against.startswith("trace:"):
        return compare_with_trace(first, read_trace(Path(against.removeprefix("trace:"))), seed=cfg.SEED)
    second = named(against, cfg, request.part, request.changes)
    batch = _batch(cfg, first, request)
    carry = not request.own_weights
    return compare_sides(first, second, batch, steps=request.steps, seed=cfg.SEED, carry=carry)


def _batch(cfg: Config, side: Side, request: Request) -> Batch:
    if request.part == "backbone":
        return random_images(request.images, *request.size, cfg.SEED)
    if request.part == "classifier":
        batch = random_images(request.images, *request.size, cfg.SEED, image_channels(cfg))
        labels = torch.arange(request.images) % cfg.MODEL.CLASSIFIER.NUM_CLASSES
        return batch | {"targets": target_maker(cfg)(labels)}
    needs = getattr(side.model, "needs", TargetNeeds(num_classes=2))
    return random_scenes(request.images, *request.size, needs, cfg.SEED)


def _finish(record: Record, cfg: Config, request: Request) -> None:
    record.facts = {"seed": cfg.SEED, "versions": _versions(), "config": cfg.dump()}
    if request.record:
        write_trace(record, request.record)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("convbody", "torch", "torchvision", "timm"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # timm is optional, and convbody may run from its source tree
            continue
    return found


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConvbodyError(f"cannot write {path}: {error.strerror}") from error
