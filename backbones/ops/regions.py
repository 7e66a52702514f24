"""RoIAlign (He et al. 2017, arXiv 1703.06870, section 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake

from backbones.ops.library import absent

_COMPILED = absent("cpu") is None
_HALF = (torch.float16, torch.bfloat16)


def roi_align(
    input: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Cut ``rois`` out of ``input``: each bin is the mean of samples that are interpolated bilinearly.

    The arguments are those of ``torchvision.ops.roi_align``, whose operator serves on other devices than the
    CPU, and where the extension is absent. Half types are computed in float32, and the boxes may be float32
    beside them. The gradient is the input's; on the CPU it can be taken twice and more.

    Args:
        input: (N, C, H, W), float64, float32, float16 or bfloat16; channels_last is much the faster layout.
        rois: (K, 5), index of the image, x1, y1, x2, y2; of the input's type.
        output_size: bins; one number, or one vertical and one horizontal.
        spatial_scale: pixels of ``input`` per unit of the boxes.
        sampling_ratio: samples per bin and direction; 0 or less: as many as the bin covers pixels.
        aligned: pixel centres lie at halves, and boxes may be smaller than a pixel.

    Returns:
        (K, C, height, width), contiguous, of the type of the input.
    """
    if not _COMPILED or input.device.type != "cpu":
        return _by_torchvision(input, rois, output_size, spatial_scale, sampling_ratio, aligned)
    size = (output_size, output_size) if isinstance(output_size, int) else output_size
    out: Tensor = torch.ops.convbody.roi_align(input, rois, spatial_scale, *size, sampling_ratio, aligned)
    return out


def _by_torchvision(input: Tensor, rois: Tensor, *options: Any) -> Tensor:
    from torchvision.ops import roi_align

    if input.dtype not in _HALF:
        return roi_align(input, rois, *options)
    return roi_align(input.float(), rois.float(), *options).to(input.dtype)


def _fake(
    input: Tensor, rois: Tensor, spatial_scale: float, pooled_height: int, pooled_width: int, *options: Any
) -> Tensor:
    return input.new_empty(rois.shape[0], input.shape[1], pooled_height, pooled_width)


def _fake_backward(
    grad: Tensor,
    rois: Tensor,
    spatial_scale: float,
    batch: int,
    channels: int,
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
    channels_last: bool,
) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(
        (batch, channels, height, width), dtype=grad.dtype, device=grad.device, memory_format=layout
    )


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, rois, ctx.scale, _, _, *ctx.sampling = inputs
    ctx.shape = input.shape
    ctx.channels_last = torch._prims_common.suggest_memory_format(input) == torch.channels_last
    ctx.save_for_backward(rois)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (rois,) = ctx.saved_tensors
    arguments = (grad, rois, ctx.scale, *ctx.shape, *ctx.sampling, ctx.channels_last)
    return torch.ops.convbody.roi_align_backward(*arguments), *(None,) * 6


def _remember_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, ctx.scale, _, _, _, _, *ctx.sampling, _ = inputs
    ctx.size = grad.shape[2:]
    ctx.save_for_backward(rois)


def _double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The operator is linear in its input: the gradient of its gradient is the operator."""
    (rois,) = ctx.saved_tensors
    return torch.ops.convbody.roi_align(grad, rois, ctx.scale, *ctx.size, *ctx.sampling), *(None,) * 9


_library = Library("convbody", "FRAGMENT")
if _COMPILED:
    register_fake("convbody::roi_align", _fake, lib=_library)
    register_fake("convbody::roi_align_backward", _fake_backward, lib=_library)
    register_autograd("convbody::roi_align", _backward, setup_context=_remember, lib=_library)
    register_autograd(
        "convbody::roi_align_backward", _double_backward, setup_context=_remember_backward, lib=_library
    )
