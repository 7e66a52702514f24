"""Any timm model that gives features, as a body: ``timm/<model>``."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers.norm import norm_from_cfg
from backbones.layers.swap_norm import swap_batch_norms
from backbones.spec import Backbone, FeatureInfo, Stage
from registry import NORMS, Config, ConfigError, UnknownNameError, lookup, parse_conv_body
from registry.errors import nearest_phrase

CONV_BODY = "MODEL.BACKBONE.CONV_BODY"

#: Arguments that free a model from its training resolution; each is tried on the models that know it.
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


class TimmBody(Backbone):
    """A timm feature extractor with our contract.

    Images are padded with zeros at the right and bottom to a multiple of the coarsest stride, and features
    are cut to ceil(H / stride) by ceil(W / stride): patch embeddings, windows and branches that meet again
    need sides that divide. Features of channels-last models are given as (N, C, H, W).

    Args:
        net: what ``timm.create_model(..., features_only=True)`` gives.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        info: Any = net.feature_info
        names, strides = list(info.module_name()), info.reduction()
        self._taps = [_flat(name) for name in names]
        if strides[0] <= 2:
            names[0] = "stem"
        self.feature_info = tuple(map(FeatureInfo, names, info.channels(), strides))
        self._channels_last = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> features, finest first."""
        height, width = x.shape[-2:]
        sizes = [(-(-height // s), -(-width // s)) for s in self.strides]
        if x.shape[0] == 0:
            infos = zip(self.feature_info, sizes, strict=True)
            return [x.new_zeros((0, info.channels, *size)) for info, size in infos]
        multiple = self.size_divisibility
        x = F.pad(x, (0, -width % multiple, 0, -height % multiple))
        try:
            features: list[Tensor] = self.net(x)
        except (AssertionError, RuntimeError) as error:
            trained_at = tuple(self.net.pretrained_cfg["input_size"][-2:])  # type: ignore[index]
            if isinstance(error, torch.OutOfMemoryError) or tuple(x.shape[-2:]) == trained_at:
                raise
            raise ConfigError(
                f"this timm model does not take images of {x.shape[-2]}x{x.shape[-1]} (height, width), but "
                f"of {trained_at[0]}x{trained_at[1]} or what MODEL.TIMM.KWARGS.img_size says: {error}"
            ) from error
        if self._channels_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return [feature[..., :h, :w] for feature, (h, w) in zip(features, sizes, strict=True)]

    def stages(self) -> list[Stage]:
        """The stem, then a stage per feature; what comes between two features belongs to the later one."""
        children = list(self.net.children())
        # timm puts some models whole inside an extractor.
        root = children[0] if len(children) == 1 else self.net
        groups: dict[str, list[nn.Module]] = {"stem": []}
        pending: list[nn.Module] = []
        for name, module in self._parts(root, ""):
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
    options = dict(cfg.MODEL.TIMM.KWARGS)
    if isinstance(options.get("out_indices"), list):
        options["out_indices"] = tuple(options["out_indices"])
    body = TimmBody(_create(timm, name, options, cfg))
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


def _create(timm: ModuleType, name: str, options: dict[str, Any], cfg: Config) -> nn.Module:
    """The feature extractor, free of its training resolution where the model has a switch for that."""
    for any_size in _ANY_SIZE:
        arguments = {**any_size, **options}
        try:
            net: nn.Module = timm.create_model(
                name, features_only=True, pretrained=cfg.MODEL.TIMM.PRETRAINED, **arguments
            )
        except TypeError as error:
            if any(key in str(error) for key in any_size.keys() - options.keys()):
                continue
            raise ConfigError(f"timm/{name}: {error}", "MODEL.TIMM.KWARGS", cfg) from error
        except IndexError as error:
            raise ConfigError(f"timm/{name} has no such feature", "MODEL.TIMM.KWARGS", cfg) from error
        except (RuntimeError, AttributeError, AssertionError) as error:
            raise ConfigError(f"timm/{name} gives no features: {error}", CONV_BODY, cfg) from error
        return net
    raise AssertionError("the last attempt adds no argument that could be refused")


def _flat(name: str) -> str:
    """A module's name as timm's extractors may have flattened it: ``stages_0`` and ``stages.0`` are one."""
    return name.replace("_", ".")
