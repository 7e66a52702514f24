"""RoIAlign (He et al. 2017, arXiv 1703.06870, section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake

from backbones.ops.checks import ArgumentError, check_devices
from backbones.ops.library import absent

_COMPILED = absent("cpu") is None
_HALF = (torch.float16, torch.bfloat16)

#: Samples per bin and direction that may be asked for (csrc/roi_align.h).
MOST_SAMPLES = 256
#: Samples of one box in the CPU's operator of torchvision, which keeps some 50 bytes for each.
_MOST_KEPT = 2**24


def roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Cut ``boxes`` out of ``input``: each bin is the mean of samples that are interpolated bilinearly.

    The arguments are those of ``torchvision.ops.roi_align``, whose operator serves on other devices than the
    CPU, and where the extension is absent. Half types are computed in float32 and rounded once, under
    autocast and without it. The gradient is the input's; on the CPU it can be taken twice and more.

    Args:
        input: (N, C, H, W), float64, float32, float16 or bfloat16; channels_last is much the faster layout.
        boxes: (K, 5), index of the image, x1, y1, x2, y2; or for each image (L, 4), x1, y1, x2, y2. Of the
            input's type, or of a half type, or float32 beside an input of a half type.
        output_size: bins; one number, or one vertical and one horizontal.
        spatial_scale: pixels of ``input`` per unit of the boxes.
        sampling_ratio: samples per bin and direction, up to MOST_SAMPLES; 0 or less: as many as the bin
            covers pixels.
        aligned: pixel centres lie at halves, and boxes may be smaller than a pixel.

    Returns:
        (K, C, height, width), contiguous, of the type of the input.

    Raises:
        ArgumentError: boxes in another form, tensors on different devices, too many samples.
        RuntimeError: other shapes and types that do not fit, and boxes of images that are not there.
    """
    rois = boxes if isinstance(boxes, Tensor) else _joined(input, boxes)
    check_devices("roi_align", input=input, boxes=rois)
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ArgumentError(
            f"roi_align: the boxes must have shape (K, 5), or (L, 4) in a list, not {tuple(rois.shape)}"
        )
    if sampling_ratio > MOST_SAMPLES:
        raise ArgumentError(
            f"roi_align: sampling_ratio is {sampling_ratio}; it must be at most {MOST_SAMPLES}, or 0 for as "
            "many samples as a bin covers pixels"
        )
    rois = rois.float() if rois.dtype in _HALF else rois
    options = (spatial_scale, *_pair(output_size), sampling_ratio, aligned)
    if not _COMPILED or input.device.type != "cpu":
        return _by_torchvision(input, rois, *options)
    out: Tensor = torch.ops.convbody.roi_align(input, rois, *options)
    return out


def _joined(input: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """The boxes (L, 4) of each image as rows (K, 5)."""
    rows = []
    for image, box in enumerate(boxes):
        if not isinstance(box, Tensor) or box.dim() != 2 or box.shape[1] != 4:
            found = f"of shape {tuple(box.shape)}" if isinstance(box, Tensor) else f"a {type(box).__name__}"
            raise ArgumentError(f"roi_align: the boxes of image {image} must be (L, 4), not {found}")
        check_devices("roi_align", input=input, **{f"the boxes of image {image}": box})
        box = box.float() if box.dtype in _HALF else box  # in which numbers of images are not exact
        rows.append(torch.cat((box.new_full((len(box), 1), image), box), dim=1))
    return torch.cat(rows) if rows else input.new_empty(0, 5)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    pair = tuple(size) if isinstance(size, Iterable) else (size, size)
    if len(pair) != 2:
        raise ArgumentError(f"roi_align: the output size must be one number or two, not {pair}")
    return pair


def _by_torchvision(
    input: Tensor, rois: Tensor, scale: float, rows: int, columns: int, ratio: int, aligned: bool
) -> Tensor:
    from torchvision.ops import roi_align

    if input.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing():
        _check_reach(input, rois, scale, rows, columns, ratio)
    wide = input.float() if input.dtype in _HALF else input
    out: Tensor = roi_align(wide, rois, (rows, columns), scale, ratio, aligned)
    return out.to(input.dtype)


def _check_reach(input: Tensor, rois: Tensor, scale: float, rows: int, columns: int, ratio: int) -> None:
    """Raises ArgumentError for a box of no image, which torchvision reads all the same, or one too large."""
    index, *corners = rois.detach().double().unbind(1)
    absent = torch.where(~((index >= 0) & (index < len(input))))[0]
    if len(absent):
        box = int(absent[0])
        raise ArgumentError(f"roi_align: box {box} is of image {index[box]:g} in a batch of {len(input)}")
    wide, high = ((end - start) * scale for start, end in zip(corners[:2], corners[2:], strict=True))
    grid = [high / rows, wide / columns] if ratio <= 0 else [torch.full_like(wide, ratio)] * 2
    samples = grid[0].ceil().clamp(min=1) * grid[1].ceil().clamp(min=1) * (rows * columns)
    endless = torch.where(~(samples <= _MOST_KEPT))[0]
    if len(endless):
        box = int(endless[0])
        raise ArgumentError(
            f"roi_align: box {box}, {rois[box, 1:].tolist()}, takes {samples[box]:.3g} samples, more than "
            f"{_MOST_KEPT}; cut it to the image, or give a smaller sampling_ratio"
        )


def _fake(
    input: Tensor, rois: Tensor, spatial_scale: float, pooled_height: int, pooled_width: int, *options: Any
) -> Tensor:
    check_devices("roi_align", input=input, boxes=rois)
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
    check_devices("roi_align", grad=grad, boxes=rois)
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
