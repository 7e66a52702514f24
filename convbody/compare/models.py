"""The models that can be named: configs, torchvision's, timm's, and what a function of yours gives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from inspect import signature

import torch
from torch import nn

from backbones import Backbone, build_backbone
from backbones.weights import load_weights
from convbody.classification import build_classifier
from convbody.compare.observe import Side
from convbody.detection import build_detector
from convbody.training.random_state import seed_everything
from convbody.training.schedule import build_optimizer, set_learning_rate
from registry import Config, ConvbodyError, load_cfg
from registry.errors import in_one_line, nearest_phrase
from registry.merge import check_options, merge_options
from registry.plugins import load_plugins

#: What of a config can be compared, and what makes it.
_BUILDERS: dict[str, Callable[[Config], nn.Module]] = {
    "backbone": build_backbone,
    "classifier": build_classifier,
    "detector": build_detector,
}
#: What may follow --against, for messages.
FORMS = "config:FILE.yaml, torchvision:NAME, timm:NAME, trace:FOLDER or package.module:function"


def from_config(cfg: Config, part: str, label: str) -> Side:
    """The "backbone", "classifier" or "detector" of ``cfg``, with MODEL.WEIGHT if set, and its optimiser.

    The learning rate is BASE_LR with the factors of its groups: without warm-up and schedule.
    """
    seed_everything(cfg.SEED)
    model: nn.Module = _BUILDERS[part](cfg)
    if cfg.MODEL.WEIGHT:
        load_weights(model, cfg.MODEL.WEIGHT, cfg)
    return Side(label, model, _optimizer(cfg, model, part))


def named(spec: str, cfg: Config, part: str, changes: Sequence[str] = ()) -> Side:
    """The side that ``spec`` names, in one of ``FORMS`` but for a trace.

    ``cfg`` is the config of the other side; models that have none take its SOLVER keys, with ``changes``
    (KEY, VALUE, ...) made to them. A function is called without arguments and gives a module, or a module
    and its optimiser.

    Raises:
        ConvbodyError: no such form, model, package or function, or a function that gives something else.
    """
    kind, _, name = spec.partition(":")
    if kind == "config":
        return from_config(load_cfg(name, changes), part, name)
    if changes:
        cfg = cfg.clone()
        check_options(changes)
        merge_options(cfg, changes)
    seed_everything(cfg.SEED)
    made = _made(kind, name, spec)
    if isinstance(made, tuple):
        return Side(spec, *made)
    return Side(spec, made, _optimizer(cfg, made, part))


def _optimizer(cfg: Config, model: nn.Module, part: str) -> torch.optim.Optimizer:
    backbone = model if part == "backbone" else getattr(model, "backbone", None)
    stages = backbone.stages() if isinstance(backbone, Backbone) else ()
    optimizer = build_optimizer(cfg, model, stages)
    set_learning_rate(optimizer, cfg.SOLVER.BASE_LR)
    return optimizer


def _made(kind: str, name: str, spec: str) -> nn.Module | tuple[nn.Module, torch.optim.Optimizer]:
    if kind == "torchvision":
        return _torchvision(name)
    if kind == "timm":
        return _timm(name)
    if name and all(part.isidentifier() for part in kind.split(".")):
        return _called(kind, name, spec)
    raise ConvbodyError(f"{spec!r} names no model; give {FORMS}")


def _torchvision(name: str) -> nn.Module:
    """A model of torchvision without weights; ``resnet50-FPN`` is its backbone with FPN, nothing frozen."""
    from torchvision.models import get_model_builder, list_models
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    body, dash, neck = name.partition("-")
    if body not in list_models() or (dash and (neck != "FPN" or not body.startswith("res"))):
        close = nearest_phrase(body, list_models())
        raise ConvbodyError(f"torchvision has no model {name!r}{close}; ResNets also as NAME-FPN")
    if dash:
        model: nn.Module = resnet_fpn_backbone(backbone_name=body, weights=None, trainable_layers=5)
        return model
    builder = get_model_builder(name)
    # Detectors and segmenters would fetch weights of their body all the same.
    body_too = {"weights_backbone": None} if "weights_backbone" in signature(builder).parameters else {}
    model = builder(weights=None, **body_too)
    return model


def _timm(name: str) -> nn.Module:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ConvbodyError("timm is not installed: pip install 'convbody[timm]'") from error
    if not timm.is_model(name):
        raise ConvbodyError(f"timm has no model {name!r}{nearest_phrase(name, timm.list_models())}")
    model: nn.Module = timm.create_model(name, pretrained=False)
    return model


def _called(module: str, function: str, spec: str) -> nn.Module | tuple[nn.Module, torch.optim.Optimizer]:
    load_plugins([module], spec)
    make = getattr(sys.modules[module], function, None)
    if not callable(make):
        raise ConvbodyError(
            f"{module} has no function {function}{nearest_phrase(function, dir(sys.modules[module]))}"
        )
    try:
        made = make()
    except ConvbodyError:
        raise
    except Exception as error:  # a stranger's code can fail in any way
        raise ConvbodyError(f"{spec} fails: {in_one_line(error)}") from error
    if isinstance(made, nn.Module):
        return made
    if isinstance(made, tuple) and len(made) == 2:
        model, optimizer = made
        if isinstance(model, nn.Module) and isinstance(optimizer, torch.optim.Optimizer):
            return model, optimizer
    raise ConvbodyError(
        f"{spec} has to give a torch.nn.Module, or one and its optimiser, not a {type(made).__name__}"
    )
