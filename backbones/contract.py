"""``assert_backbone_contract``: what any backbone must do, checked in one line of a plugin's tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from backbones.build import CONV_BODY, BodyAndNeck, build_backbone
from backbones.contract_parallel import check_data_parallel, is_worker
from backbones.freeze import FREEZE_KEY
from backbones.spec import Backbone, FeatureInfo
from registry import Config, ConfigError, ConvbodyError, load_cfg
from registry.errors import in_one_line

_ODD = (75, 101)  # height, width


def assert_backbone_contract(
    name: str, cfg: Config | None = None, opts: Sequence[Any] = (), *, data_parallel: bool = True
) -> None:
    """Checks that the backbone called ``name`` keeps its promises.

    The clauses: features are as feature_info says, each named after a stage; any image size and a batch of
    none work; building twice with one seed gives one network; its state dict restores it; every trainable
    parameter gets a gradient; frozen stages stand still in training; two data-parallel processes train it to
    the same weights (skipped without ``data_parallel``: it takes seconds, as it starts processes).

    Args:
        name: a CONV_BODY name, registered or composed.
        cfg: the config to build with; by default the defaults of the family.
        opts: ``[KEY, VALUE, ...]`` on top of the defaults; not with ``cfg``.

    Raises:
        AssertionError: which clause failed, and what was seen.
        ConvbodyError: the backbone cannot be built, or processes of their own cannot import it.
    """
    if is_worker():
        return  # the script of a check that runs already
    if cfg is None:
        cfg = load_cfg(None, [CONV_BODY, name, *opts])
    elif opts:
        raise TypeError("give either cfg or opts")
    cfg = cfg.clone()
    cfg.MODEL.BACKBONE.CONV_BODY = name
    with torch.random.fork_rng(devices=[]):
        try:
            model = _build(cfg, at=0)
        except ConvbodyError:
            raise
        except Exception as error:
            _require(False, name, "builds", in_one_line(error))
        _check_features(name, model)
        _check_sizes(name, model)
        _check_stages(name, model)
        _check_rebuild(name, cfg, model)
        _check_gradients(name, model)
        _check_freeze(name, cfg, model)
        if data_parallel:
            at = min(2, len(model.stages()) - 1) if isinstance(model, Backbone) else 0
            failure = check_data_parallel(_at(cfg, at))
            _require(not failure, name, "two-process data-parallel training", failure)


def _require(truth: object, name: str, clause: str, seen: str) -> None:
    if not truth:
        raise AssertionError(f"{name} breaks the backbone contract, clause {clause!r}: {seen}")


def _at(cfg: Config, at: int) -> Config:
    frozen = cfg.clone()
    frozen.MODEL.BACKBONE.FREEZE_CONV_BODY_AT = at
    return frozen


def _build(cfg: Config, at: int) -> nn.Module:
    torch.manual_seed(0)
    return build_backbone(_at(cfg, at))


def _infos(model: nn.Module) -> tuple[FeatureInfo, ...]:
    return tuple(getattr(model, "feature_info", ()))


@torch.no_grad()
def _outputs(name: str, model: nn.Module, x: Tensor, clause: str) -> list[Tensor]:
    try:
        features = model.eval()(x)
    except Exception as error:
        raise AssertionError(
            f"{name} breaks the backbone contract, clause {clause!r}: images of shape {tuple(x.shape)} raise "
            f"{type(error).__name__}: {error}"
        ) from error
    _require(
        isinstance(features, list | tuple), name, clause, f"gives a {type(features).__name__}, not a list"
    )
    return list(features)


def _check_features(name: str, model: nn.Module) -> None:
    infos = _infos(model)
    _require(infos, name, "feature info", "there is no feature_info")
    strides = [info.stride for info in infos]
    _require(strides == sorted(strides), name, "finest first", f"strides are {strides}")
    side = math.lcm(*strides)
    features = _outputs(name, model, torch.rand(2, 3, side, 2 * side), "feature info")
    _require(
        len(features) == len(infos), name, "feature info", f"{len(infos)} infos, {len(features)} features"
    )
    for info, feature in zip(infos, features, strict=True):
        wanted = (2, info.channels, side // info.stride, 2 * side // info.stride)
        _require(
            tuple(feature.shape) == wanted,
            name,
            "feature info",
            f"{info} promises {wanted} of {side}x{2 * side} images, got {tuple(feature.shape)}",
        )


def _check_sizes(name: str, model: nn.Module) -> None:
    for count, clause in ((1, "any image size"), (0, "a batch of none")):
        features = _outputs(name, model, torch.rand(count, 3, *_ODD), clause)
        for info, feature in zip(_infos(model), features, strict=True):
            fits = feature.shape[:2] == (count, info.channels) and all(
                abs(got - side / info.stride) < 1 for got, side in zip(feature.shape[2:], _ODD, strict=True)
            )
            seen = f"{info} of {count} images of {_ODD[0]}x{_ODD[1]} has shape {tuple(feature.shape)}"
            _require(fits, name, clause, seen)


def _check_stages(name: str, model: nn.Module) -> None:
    body = model.body if isinstance(model, BodyAndNeck) else model
    if not isinstance(body, Backbone):
        return
    stages = [stage for stage, _ in body.stages()]
    _require(len(set(stages)) == len(stages), name, "stages", f"names come twice: {stages}")
    nameless = [info.name for info in body.feature_info if info.name not in stages]
    _require(not nameless, name, "stages", f"features {nameless} are named after no stage of {stages}")


def _check_rebuild(name: str, cfg: Config, model: nn.Module) -> None:
    again = _build(cfg, at=0)
    state, other = model.state_dict(), again.state_dict()
    different = sorted(
        {key for key in state if key not in other or not torch.equal(state[key], other[key])}
        | (other.keys() - state.keys())
    )
    _require(not different, name, "deterministic rebuild", f"with one seed these differ: {different[:4]}")
    torch.manual_seed(1)
    scrambled = build_backbone(_at(cfg, 0))
    scrambled.load_state_dict(state)
    x = torch.rand(1, 3, *_ODD)
    clause = "state dict round trip"
    pairs = zip(_outputs(name, model, x, clause), _outputs(name, scrambled, x, clause), strict=True)
    same = all(torch.equal(a, b) for a, b in pairs)
    _require(same, name, clause, "a loaded copy gives other features: something is not in the state dict")


def _train_step(model: nn.Module) -> None:
    """One step of descent on bounded losses of every feature."""
    side = max(info.stride for info in _infos(model))
    losses = [feature.tanh().mean() for feature in model.train()(torch.rand(2, 3, side, side + 1))]
    loss = torch.stack(losses).sum()
    if loss.requires_grad:
        loss.backward()
        torch.optim.SGD(model.parameters(), lr=1e-3).step()


def _check_gradients(name: str, model: nn.Module) -> None:
    _train_step(model)
    idle = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    _require(not idle, name, "every trainable parameter gets a gradient", f"none for {idle[:4]}")


def _check_freeze(name: str, cfg: Config, model: nn.Module) -> None:
    clause = "freeze"
    count = len(model.stages()) if isinstance(model, Backbone) else 0
    for at in {1, count} - {0} if count else ():
        frozen = _build(cfg, at)
        assert isinstance(frozen, Backbone)
        parts: nn.Module = nn.ModuleList([part for _, modules in frozen.stages()[:at] for part in modules])
        if at == count and isinstance(frozen, BodyAndNeck):
            parts = frozen.body  # what stages() leaves out can never be frozen
        learning = [key for key, p in parts.named_parameters() if p.requires_grad]
        _require(not learning, name, clause, f"frozen at {at}, these still learn: {learning[:4]}")
        before = {key: value.clone() for key, value in parts.state_dict().items()}
        _train_step(frozen)
        moved = [key for key, value in parts.state_dict().items() if not torch.equal(value, before[key])]
        _require(not moved, name, clause, f"frozen at {at}, these moved in training: {moved[:4]}")
    if count and isinstance(frozen, BodyAndNeck):
        kept = [f.requires_grad for f in frozen.body(torch.rand(2, 3, *_ODD))]
        _require(
            not any(kept), name, clause, "all stages are frozen, yet features of the body need gradients"
        )
    try:
        _build(cfg, count + 1)
    except ConfigError:
        return
    seen = f"{FREEZE_KEY} {count + 1} is no ConfigError, although there are {count} stages"
    _require(False, name, clause, seen)
