"""Any timm model that gives features, as a body: ``timm/<model>``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers.norm import norm_from_cfg
from backbones.layers.swap_norm import swap_batch_norms
from backbones.spec import Backbone, FeatureInfo, Stage
from backbones.timm_sizes import TimmSizes
from backbones.timm_stages import part, stages_by_dependency
from registry import NORMS, Config, ConfigError, UnknownNameError, lookup, parse_conv_body
from registry.errors import nearest_phrase

CONV_BODY = "MODEL.BACKBONE.CONV_BODY"

#: Arguments that free a model from its training resolution; each is tried on the models that know it.
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


class TimmBody(Backbone):
    """A timm feature extractor with our contract.

    Images are padded with zeros at the right and bottom to multiples of the strides, and features are cut to
    ceil(H / stride) by ceil(W / stride): patch embeddings, windows and branches that meet again need sides
    that divide. A model that takes one size only has images padded to that. Features of channels-last models
    are given as (N, C, H, W). Of a model that resizes images itself (CrossViT) they are resampled to the
    promised size.

    Args:
        net: what ``timm.create_model(..., features_only=True)`` gives.
        create: gives that again, with further arguments.
        own_size: height and width of the images that the model was made for.
    """

    def __init__(self, net: nn.Module, create: Callable[..., nn.Module], own_size: tuple[int, int]) -> None:
        super().__init__()
        self.net = net
        self._create = create
        info: Any = net.feature_info
        names, strides = _unique(info.module_name()), info.reduction()
        self._taps = [_flat(name) for name in info.module_name()]
        if strides[0] <= 2:
            names[0] = "stem"
        self.feature_info = tuple(map(FeatureInfo, names, info.channels(), strides))
        self._channels_last = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")
        self._stage_parts: list[list[str]] | None = None
        self._sizes = TimmSizes(create, own_size, self.size_divisibility)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> features, finest first."""
        height, width = x.shape[-2:]
        sizes = [(-(-height // s), -(-width // s)) for s in self.strides]
        if x.shape[0] == 0:
            infos = zip(self.feature_info, sizes, strict=True)
            return [x.new_zeros((0, info.channels, *size)) for info, size in infos]
        padded = self._sizes.padded((height, width))
        if padded is None:
            raise self._refused((height, width))
        x = F.pad(x, (0, padded[1] - width, 0, padded[0] - height))
        try:
            features: list[Tensor] = self.net(x)
        except (AssertionError, RuntimeError, IndexError) as error:
            if isinstance(error, torch.OutOfMemoryError) or padded == self._sizes.own:
                raise
            raise self._refused((height, width)) from error
        if self._channels_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        whole = [(-(-padded[0] // s), -(-padded[1] // s)) for s in self.strides]
        features = [_resampled(feature, size) for feature, size in zip(features, whole, strict=True)]
        return [feature[..., :h, :w] for feature, (h, w) in zip(features, sizes, strict=True)]

    def _refused(self, size: tuple[int, int]) -> ConfigError:
        own = self._sizes.own
        if size[0] > own[0] or size[1] > own[1]:
            taken, remedy = "of up to", self._sizes.advice(size)
        else:
            taken, remedy = "of", f"pad them: set DATALOADER.SIZE_DIVISIBILITY to {max(own)}"
        return ConfigError(
            f"this timm model does not take images of {size[0]}x{size[1]} pixels (height x width), "
            f"but {taken} {own[0]}x{own[1]}: {remedy}"
        )

    def stages(self) -> list[Stage]:
        """The stem, then a stage per feature; what comes between two features belongs to the later one."""
        known = {_flat(name) for name, _ in self._root.named_modules()}
        if known.issuperset(self._taps) and len(set(self._taps)) == len(self._taps):
            return self._stages_by_name()
        if self._stage_parts is None:
            with torch.device("meta"):
                twin = self._create()
            self._stage_parts = stages_by_dependency(twin, self._sizes.own)
        names = ["stem", *(info.name for info in self.feature_info)]
        stages: dict[str, list[nn.Module]] = {
            name: [] for name in names
        }  # the first feature may be the stem's
        for name, held in zip(names, self._stage_parts, strict=True):
            stages[name] += [part(self.net, each) for each in held]
        return list(stages.items())

    @property
    def _root(self) -> nn.Module:
        children = list(self.net.children())
        # timm puts some models whole inside an extractor.
        return children[0] if len(children) == 1 else self.net

    def _stages_by_name(self) -> list[Stage]:
        groups: dict[str, list[nn.Module]] = {"stem": []}
        pending: list[nn.Module] = []
        for name, module in self._parts(self._root, ""):
            pending.append(module)
            if name is None:
                continue
            if (
                len(groups) == 1 and name != "stem"
            ):  # the first feature is not the stem's: the stem ends before it
                groups["stem"] += pending[:-1]
                del pending[:-1]
            groups.setdefault(name, []).extend(pending)
            pending = []
        groups[list(groups)[-1]].extend(pending)
        return list(groups.items())

    def _parts(self, module: nn.Module, path: str) -> Iterator[tuple[str | None, nn.Module]]:
        """Modules in order of definition, cut where features are taken: (feature's name or None, module)."""
        loose = list(module.parameters(recurse=False))
        if loose:
            yield None, nn.ParameterList(loose)
        for child_name, child in module.named_children():
            child_path = path + _flat(child_name)
            if child_path in self._taps:
                yield self.feature_info[self._taps.index(child_path)].name, child
            elif any(tap.startswith(f"{child_path}.") for tap in self._taps):
                yield from self._parts(child, f"{child_path}.")
            else:
                yield None, child


def build_timm_body(cfg: Config) -> TimmBody:
    """Any timm model that gives features (MODEL.TIMM), e.g. timm/resnet18, timm/convnext_tiny.

    Raises:
        ConfigError: timm is not installed, the model gives no features or does not take MODEL.TIMM.KWARGS.
        UnknownNameError: timm has no such model.
    """
    timm = _import_timm(cfg)
    name = parse_conv_body(cfg.MODEL.BACKBONE.CONV_BODY).body.removeprefix("timm/")
    if not timm.is_model(name):
        raise UnknownNameError(
            f"timm {timm.__version__} has no model called {name!r}"
            f"{nearest_phrase(name, timm.list_models())}; "
            'list all: python -c "import timm; print(*timm.list_models())"'
        )
    options = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in cfg.MODEL.TIMM.KWARGS.items()
    }
    net, any_size = _create(name, options, cfg)
    own = options.get("img_size") or net.pretrained_cfg["input_size"][-2:]  # type: ignore[index]
    own_size = (own, own) if isinstance(own, int) else tuple(own)
    body = TimmBody(net, partial(_features_net, name, **{**any_size, **options}), own_size)
    if cfg.MODEL.TIMM.NORM:
        lookup(NORMS, cfg, "MODEL.TIMM.NORM")
        swap_batch_norms(body.net, norm_from_cfg(cfg, cfg.MODEL.TIMM.NORM))
    return body


def _import_timm(cfg: Config) -> ModuleType:
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise ConfigError("timm is not installed: pip install 'convbody[timm]'", CONV_BODY, cfg) from None
    return timm


def _create(name: str, options: dict[str, Any], cfg: Config) -> tuple[nn.Module, dict[str, Any]]:
    """The feature extractor, and the arguments that free it of its training resolution, if it has such."""
    for any_size in _ANY_SIZE:
        arguments = {**any_size, **options}
        try:
            net = _features_net(name, pretrained=cfg.MODEL.TIMM.PRETRAINED, **arguments)
        except TypeError as error:
            if any(key in str(error) for key in any_size.keys() - options.keys()):
                continue
            raise ConfigError(f"timm/{name}: {error}", "MODEL.TIMM.KWARGS", cfg) from error
        except IndexError as error:
            raise ConfigError(f"timm/{name} has no such feature", "MODEL.TIMM.KWARGS", cfg) from error
        except (RuntimeError, AttributeError, AssertionError) as error:
            raise ConfigError(f"timm/{name} gives no features: {error}", CONV_BODY, cfg) from error
        return net, any_size
    raise AssertionError("the last attempt adds no argument that could be refused")


def _features_net(name: str, **arguments: Any) -> nn.Module:
    import timm

    net: nn.Module = timm.create_model(name, features_only=True, **arguments)
    return net


def _resampled(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, h, w) at ``size``; unchanged where it has that size."""
    if feature.shape[-2:] == size:
        return feature
    return F.interpolate(feature, size=size, mode="bilinear", align_corners=False)


def _unique(names: Sequence[str]) -> list[str]:
    """The names, those that come again numbered from 2."""
    return [
        name if name not in names[:i] else f"{name}_{names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]


def _flat(name: str) -> str:
    """A module's name as timm's extractors may have flattened it: ``stages_0`` and ``stages.0`` are one."""
    return name.replace("_", ".")
