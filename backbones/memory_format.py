"""How feature maps lie in memory: channel by channel (NCHW) or pixel by pixel (channels_last, NHWC)."""

from __future__ import annotations

import torch
from torch import Tensor

from registry import Config, ConfigError

MEMORY_FORMAT_KEY = "MODEL.MEMORY_FORMAT"
AUTO = "auto"
_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
_HALVES = (torch.float16, torch.bfloat16)


def memory_format_from_cfg(cfg: Config) -> str:
    """The word that MODEL.MEMORY_FORMAT is. Raises ConfigError for an unknown one."""
    word: str = cfg.MODEL.MEMORY_FORMAT
    if word != AUTO and word not in _FORMATS:
        raise ConfigError(f"use {AUTO}, {' or '.join(_FORMATS)}", MEMORY_FORMAT_KEY, cfg)
    return word


def arranged(x: Tensor, word: str, quick: bool = False) -> Tensor:
    """``x`` (N, C, H, W), its values in memory as ``word`` says; layers keep the order of their input.

    "auto" is channels_last where that is known to win: on GPUs that compute in half precision, whose matrix
    units read it without a copy, and in float32 on CPUs if the network is ``quick``, that is, made of
    convolutions for which there is a quicker operator. Elsewhere ``x`` stays as it came: the network, the
    image and the processor decide (``benchmarks/inference.py --memory-format`` tells for one).
    """
    if word != AUTO:
        return x.contiguous(memory_format=_FORMATS[word])
    if _half_on_gpu(x) or (quick and _float32_on_cpu(x)):
        return x.contiguous(memory_format=torch.channels_last)
    return x


def _float32_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype is torch.float32 and not torch.is_autocast_enabled("cpu")


def _half_on_gpu(x: Tensor) -> bool:
    if not x.is_cuda:
        return False
    autocast = torch.is_autocast_enabled("cuda")
    return (torch.get_autocast_dtype("cuda") if autocast else x.dtype) in _HALVES
