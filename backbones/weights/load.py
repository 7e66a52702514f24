"""MODEL.WEIGHT: from a file into a backbone or a detector, by whole names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from torch import Tensor, nn

from backbones.build import BodyAndNeck
from backbones.spec import Backbone
from backbones.weights.contract import check_contract
from backbones.weights.lineages import LINEAGES
from backbones.weights.read import counts, read_weights
from backbones.weights.report import LoadReport, grouped
from backbones.weights.rules import Lineage, Renamed, State, changed, fill, match
from backbones.weights.source import KEY, address
from registry import Config, ConfigError

#: The body is useless with fewer of its tensors than this.
ENOUGH = 0.9

#: Where else in a detector of ours a tensor may have its place: name in a file -> name in the detector.
_OTHER_PLACES = (
    # The head of a C4 detector is the stage that its body leaves out.
    ("backbone.body.layer4.{rest}", "roi_heads.box_head.head.layer4.{rest}"),
    # An FPN whose convolutions are followed by a norm or a ReLU holds each in a sequence.
    ("backbone.fpn.fpn_inner{s}.{leaf}", "backbone.fpn.fpn_inner{s}.0.{leaf}"),
    ("backbone.fpn.fpn_layer{s}.{leaf}", "backbone.fpn.fpn_layer{s}.0.{leaf}"),
)


def load_weights(module: nn.Module, path: str | Path, cfg: Config | None = None) -> LoadReport:
    """Fills ``module``, a backbone or a detector, from a ``.pth``, ``.pkl`` or ``.safetensors`` file.

    The file may hold a detector, a training checkpoint (``{"model": ...}``), a backbone (``body.*``,
    ``fpn.*``) or a body alone, in our names or those of any lineage in ``lineages``; names match as a whole.
    What does not fit is left as it was and reported. ``path`` may also be an address or a name, as
    ``source.local_file`` takes them. ``cfg`` is held to what the weights expect of it (see ``contract``), and
    tells errors where things were set.

    Raises:
        ConfigError: no such file, a file that holds no tensors, one that gives less than 90 % of the tensors
            of the body (parameters and norm buffers), or one of a body with more blocks; says what did not
            fit. Or ``cfg`` contradicts what the weights were trained with.
    """
    target = module.state_dict()
    file = read_weights(path, cfg)
    reading = _best_reading(file.tensors, module, target)
    fitting, unexpected, wrong_shape = {}, [], []
    for name, tensor in reading.state.items():
        own = reading.place_of(name)
        if own is None or own in fitting:
            if counts(name):
                unexpected.append(name)
            continue
        tensor = changed(tensor, reading.renamed[name])
        if tensor.shape != target[own].shape:
            wrong_shape.append((own, tuple(tensor.shape), tuple(target[own].shape)))
        else:
            fitting[own] = tensor
    clashing = {name for name, _, _ in wrong_shape}
    missing = tuple(name for name in target if name not in fitting and name not in clashing and counts(name))
    loaded = tuple(name for name in fitting if counts(name))
    report = LoadReport(
        address(path),
        reading.lineage.name,
        loaded,
        missing,
        tuple(unexpected),
        tuple(wrong_shape),
        file.contract,
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
    every_places = [_places(target, own, whole) for own, whole in _roots(module)]
    for lineage in LINEAGES:
        if not lineage.marked(file):
            continue
        state = {name: tensor for name, tensor in file.items() if not lineage.ignores(name)}
        state = dict(lineage.complete(state)) if lineage.complete else state
        for places in every_places:
            for prefix in lineage.prefixes:
                yield _Reading(lineage, state, lineage.to_ours(state, prefix, places), places)


def _roots(module: nn.Module) -> list[tuple[str, str]]:
    """What may be meant by the names in ``module``: (prefix of the backbone in it, prefix in a detector)."""
    for name, child in module.named_modules():
        if isinstance(child, Backbone):
            own = f"{name}." if name else ""
            alone = not (name or isinstance(child, BodyAndNeck))
            return [(own, "backbone.body."), (own, "backbone.")] if alone else [(own, "backbone.")]
    return [("", "")]


def _places(target: Mapping[str, Tensor], own: str, whole: str) -> dict[str, str]:
    """Names in a detector of ours -> names in the module."""
    places = {whole + name.removeprefix(own) if name.startswith(own) else name: name for name in target}
    for elsewhere, place in _OTHER_PLACES:
        for name, its in list(places.items()):
            values = match(place, name)
            if values is not None:
                places.setdefault(fill(elsewhere, values), its)
    return places


def _require_enough(
    module: nn.Module, target: Mapping[str, Tensor], report: LoadReport, cfg: Config | None
) -> None:
    prefix = _body_prefix(module)
    wanted = {name for name in target if name.startswith(prefix) and counts(name)}
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


def _body_prefix(module: nn.Module) -> str:
    """Prefix of the names of the body in ``module``; "" when that is all of it."""
    for name, child in module.named_modules():
        if isinstance(child, Backbone):
            own = f"{name}." if name else ""
            return f"{own}body." if isinstance(child, BodyAndNeck) else own
    return ""
