"""MODEL.WEIGHT: from a file into a backbone or a detector, by whole names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from backbones.build import BodyAndNeck
from backbones.spec import Backbone
from backbones.weights import caffe2, detectron2, timm, torchvision
from backbones.weights.read import counts, read_tensors
from backbones.weights.report import LoadReport
from backbones.weights.source import KEY
from registry import Config, ConfigError

#: The body is useless with fewer of its tensors than this.
ENOUGH = 0.9

Renames = tuple[tuple[str, str], ...]

#: An FPN whose convolutions are followed by a norm or a ReLU holds each in a sequence.
_FPN_IN_SEQUENCE: Renames = ((r"^(fpn\.fpn_(?:inner|layer)\d)\.(weight|bias)$", r"\1.0.\2"),)

_RENAMES: tuple[Renames, ...] = (
    (),
    torchvision.RENAMES,
    timm.RENAMES,
    caffe2.RENAMES,
    caffe2.RENAMES + _FPN_IN_SEQUENCE,
    detectron2.RENAMES,
    detectron2.RENAMES + _FPN_IN_SEQUENCE,
)


def load_weights(module: nn.Module, path: str | Path, cfg: Config | None = None) -> LoadReport:
    """Fills ``module``, a backbone or a detector, from a ``.pth``, ``.pkl`` or ``.safetensors`` file.

    The file may hold a detector, a training checkpoint (``{"model": ...}``), a backbone (``body.*``,
    ``fpn.*``) or a body alone, in our names, or a backbone in those of torchvision, timm, Caffe2 and
    Detectron, or detectron2; names match as a whole. What does not fit is left as it was and reported.
    ``path`` may also be an address or a name, as ``source.local_file`` takes them. ``cfg`` only tells errors
    where it was set.

    Raises:
        ConfigError: no such file, a file that holds no tensors, or one that gives less than 90 % of the
            tensors of the body (parameters and norm buffers); says what did not fit.
    """
    state = caffe2.completed(read_tensors(str(path), cfg))
    target = {name: tensor for name, tensor in module.state_dict().items() if counts(name)}
    renamed = _best_names(state, target)
    fitting, unexpected, wrong_shape = {}, [], []
    for name, tensor in state.items():
        new = renamed[name]
        if new not in target:
            unexpected.append(name)
        elif tensor.shape != target[new].shape:
            wrong_shape.append((new, tuple(tensor.shape), tuple(target[new].shape)))
        else:
            fitting[new] = tensor
    clashing = {name for name, _, _ in wrong_shape}
    missing = tuple(name for name in target if name not in fitting and name not in clashing)
    report = LoadReport(str(path), tuple(fitting), missing, tuple(unexpected), tuple(wrong_shape))
    _require_enough(module, target, report, cfg)
    module.load_state_dict(fitting, strict=False)
    return report


def _require_enough(
    module: nn.Module, target: Mapping[str, Tensor], report: LoadReport, cfg: Config | None
) -> None:
    prefix = _body_prefix(module)
    wanted = {name for name in target if name.startswith(prefix)}
    found = wanted.intersection(report.loaded)
    if len(found) < ENOUGH * len(wanted):
        raise ConfigError(
            f"{report.file} fits {len(found)} of the {len(wanted)} tensors of the body, fewer than "
            f"{ENOUGH:.0%}: {report.summary()}",
            KEY,
            cfg,
        )


def _body_prefix(module: nn.Module) -> str:
    """Prefix of the names of the body in ``module``; "" when that is all of it."""
    for name, child in module.named_modules():
        if isinstance(child, Backbone):
            own = f"{name}." if name else ""
            return f"{own}body." if isinstance(child, BodyAndNeck) else own
    return ""


def _best_names(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, str]:
    """Names in the file -> names in the module, in the reading of the file under which most of them exist."""
    best: dict[str, str] = {}
    most = -1
    for names in _readings(state, target):
        hits = sum(new in target for new in names.values())
        if hits > most:
            best, most = names, hits
    return best


def _readings(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Iterator[dict[str, str]]:
    """Every way to read the file: as it is, a part of it or a part of the module, in each known naming."""
    parts = {""} | {f"{part}." for name in target for part in _parents(name)}
    for renames in _RENAMES:
        renamed = {name: _rename(name, renames) for name in state}
        for removed in ("", "backbone.", "body.", "backbone.body."):
            if not any(new.startswith(removed) for new in renamed.values()):
                continue
            for added in sorted(parts, key=len):
                yield {
                    name: added + new.removeprefix(removed) if new.startswith(removed) else name
                    for name, new in renamed.items()
                }


def _parents(name: str) -> Iterator[str]:
    """The first three dotted prefixes of a tensor's name: where a backbone or its body may be."""
    parts = name.split(".")[:-1]
    for count in range(1, min(len(parts), 3) + 1):
        yield ".".join(parts[:count])


def _rename(name: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name
