"""What weights expect of the config they are used with: colours, a ResNet's strides, the norms' epsilon."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from backbones.resnet.config import CIFAR_DEPTHS, CIFAR_NORMS_WITH_EPSILON
from backbones.spec import StageSpec
from registry import STAGE_SPECS, TRANSFORMATION_MODULES, Config, ConfigError, parse_conv_body
from registry.errors import describe_key, in_one_line
from registry.tree import value_of

KEY = "MODEL.WEIGHT_CONTRACT"
#: Published means of the same images differ by this much, in grey levels out of 255.
MEAN_TOLERANCE = 1.0
STD_TOLERANCE = 0.01  # relative

_TO_BGR255, _MEAN, _STD = "INPUT.TO_BGR255", "INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD"
_STRIDE = "MODEL.RESNETS.STRIDE_IN_1X1"
_EPSILON_KEYS = {"FrozenBN": "MODEL.FROZEN_BN.EPSILON", "GN": "MODEL.GROUP_NORM.EPSILON"}
_CIFAR_EPSILON = "MODEL.CIFAR_RESNETS.BN_EPSILON"
_TORCH_EPSILON = 1e-5  # of batch norms in larger ResNets, which have no key

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightContract:
    """The conventions that weights were trained with.

    Attributes:
        channel_order: "RGB" or "BGR".
        value_range: what white is in an image, 1 or 255.
        mean, std: of each channel, in that order and range; of grey images there is one.
        stride_in_1x1: whether a ResNet bottleneck strides in its first 1x1 convolution; None: no such block.
        norm_epsilon: what the norms of the body add to the variance; None: not known, or not for the config.
        size: (height, width) of the images that it was trained on, pixels; None: not known, or of many sizes.
            No config contradicts it, as bodies take any size.
    """

    channel_order: str
    value_range: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stride_in_1x1: bool | None = None
    norm_epsilon: float | None = None
    size: tuple[int, int] | None = None

    def record(self) -> dict[str, Any]:
        """Plain values, to be stored in a file under "contract"."""
        record = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in record.items()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> WeightContract:
        """The contract that :meth:`record` gave.

        Raises:
            ConfigError: anything else.
        """
        try:
            tuples = {name: tuple(record[name]) for name in ("mean", "std")}
            if record.get("size") is not None:
                tuples["size"] = tuple(record["size"])
            contract = cls(**{**record, **tuples})
        except (TypeError, KeyError) as error:
            raise ConfigError(f"no contract of weights: {in_one_line(error)}") from error
        if not contract._is_sound():
            raise ConfigError("no contract of weights: its values are not what weights could expect")
        return contract

    def _is_sound(self) -> bool:
        size = (1, 1) if self.size is None else self.size
        epsilon = () if self.norm_epsilon is None else (self.norm_epsilon,)
        return (
            isinstance(self.channel_order, str)
            and self.channel_order in ("RGB", "BGR")
            and isinstance(self.value_range, int)
            and self.value_range in (1, 255)
            and (self.stride_in_1x1 is None or isinstance(self.stride_in_1x1, bool))
            and len(self.mean) == len(self.std) >= 1
            and len(size) == 2
            and all(_is_number(value) for value in (*self.mean, *self.std, *size, *epsilon))
        )


def _is_number(value: Any) -> bool:
    """Whether ``value`` is a number that a mean or a size can be; not every integer can become a float."""
    return isinstance(value, int | float) and abs(value) < 1e9


def contract_of(cfg: Config) -> WeightContract | None:
    """The contract of weights trained with ``cfg``; None for a config without INPUT."""
    if "INPUT" not in cfg:
        return None
    bgr, key = cfg.INPUT.TO_BGR255, _epsilon_key(cfg)
    epsilon = value_of(cfg, key) if key else _TORCH_EPSILON if _resnet_norm(cfg) else None
    return WeightContract(
        "BGR" if bgr else "RGB",
        255 if bgr else 1,
        tuple(map(float, cfg.INPUT.PIXEL_MEAN)),
        tuple(map(float, cfg.INPUT.PIXEL_STD)),
        cfg.MODEL.RESNETS.STRIDE_IN_1X1 if _has_bottlenecks(cfg) else None,
        None if epsilon is None else float(epsilon),
    )


def contradictions(contract: WeightContract, cfg: Config) -> dict[str, Any]:
    """The config keys that contradict ``contract``, with the values that would not."""
    mine = contract_of(cfg)
    if mine is None:
        return {}
    bgr = contract.channel_order == "BGR"
    factor = (255 if bgr else 1) / contract.value_range  # a config has BGR in 0 to 255, and RGB in 0 to 1
    mean, std = ([round(value * factor, 4) for value in values] for values in (contract.mean, contract.std))
    wanted: dict[str, Any] = {}
    if bgr != cfg.INPUT.TO_BGR255:
        wanted[_TO_BGR255] = bgr
    if not _close(mean, mine.mean, absolute=MEAN_TOLERANCE if bgr else MEAN_TOLERANCE / 255):
        wanted[_MEAN] = mean
    if not _close(std, mine.std, relative=STD_TOLERANCE):
        wanted[_STD] = std
    if (
        None not in (contract.stride_in_1x1, mine.stride_in_1x1)
        and contract.stride_in_1x1 != mine.stride_in_1x1
    ):
        wanted[_STRIDE] = contract.stride_in_1x1
    key, epsilon = _epsilon_key(cfg), contract.norm_epsilon
    if key and epsilon is not None and not _close([epsilon], [value_of(cfg, key)], relative=1e-3):
        wanted[key] = epsilon
    return wanted


def check_contract(contract: WeightContract, cfg: Config, file: str) -> None:
    """Holds ``cfg`` to the contract of the weights in ``file``; MODEL.WEIGHT_CONTRACT says how strictly.

    Raises:
        ConfigError: what the config says and what the weights were trained with, for every key that differs.
    """
    if cfg.MODEL.WEIGHT_CONTRACT not in ("error", "warn"):
        raise ConfigError('must be "error" or "warn"', KEY, cfg)
    wanted = contradictions(contract, cfg)
    if not wanted:
        return
    parts = "; ".join(f"{describe_key(cfg, key)}, should be {value!r}" for key, value in wanted.items())
    message = f"{file} was trained with other settings than the config has: {parts}"
    if cfg.MODEL.WEIGHT_CONTRACT == "error":
        raise ConfigError(f"{message}; set these keys, or {KEY} warn to go on all the same")
    logger.warning("%s", message)


def _close(
    wanted: Sequence[float], found: Sequence[float], absolute: float = 0.0, relative: float = 0.0
) -> bool:
    return len(wanted) == len(found) and all(
        abs(a - b) <= absolute + relative * abs(a) for a, b in zip(wanted, found, strict=True)
    )


def _epsilon_key(cfg: Config) -> str | None:
    """The key with the epsilon of the body's norms; None where there is none."""
    if parse_conv_body(cfg.MODEL.BACKBONE.CONV_BODY).body in CIFAR_DEPTHS:
        norm = cfg.MODEL.CIFAR_RESNETS.NORM
        return _CIFAR_EPSILON if norm in CIFAR_NORMS_WITH_EPSILON else _EPSILON_KEYS.get(norm)
    return _EPSILON_KEYS.get(_resnet_norm(cfg) or "")


def _resnet_norm(cfg: Config) -> str | None:
    """Name in NORMS of the norm in a ResNet's blocks; None for another body, or blocks that do not tell."""
    block = cfg.MODEL.RESNETS.TRANS_FUNC
    if not _resnet_stages(cfg) or block not in TRANSFORMATION_MODULES:
        return None
    return getattr(TRANSFORMATION_MODULES[block], "norm", None)


def _has_bottlenecks(cfg: Config) -> bool:
    return any(not spec.basic for spec in _resnet_stages(cfg))


def _resnet_stages(cfg: Config) -> tuple[StageSpec, ...]:
    body = parse_conv_body(cfg.MODEL.BACKBONE.CONV_BODY).body
    return tuple(STAGE_SPECS[body]) if body in STAGE_SPECS else ()
