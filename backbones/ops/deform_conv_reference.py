"""Deformable convolution in plain PyTorch: the definition that the kernels are held to.

It materialises every sample, so it needs about kh * kw * 4 times the memory of the input; in exchange it is
differentiable any number of times, backwards and forwards, on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def deform_conv2d_reference(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    options: tuple[int, ...],
) -> Tensor:
    """Dai et al. 2017 (arXiv 1703.06211), eq. 2; with a mask Zhu et al. 2018 (arXiv 1811.11168), eq. 1.

    Shapes are those of ``backbones.ops.deform_conv2d``; nothing is checked. ``options`` are stride, padding
    and dilation, two of each, vertical first. Half types are computed in float32, whatever autocast says,
    and rounded at the end.
    """
    dtype = input.dtype
    if dtype in (torch.float16, torch.bfloat16):
        input, offset, weight = input.float(), offset.float(), weight.float()
        bias, mask = (None if t is None else t.float() for t in (bias, mask))
    batch, channels, height, width = input.shape
    out_channels, group_channels, *kernel = weight.shape
    out_height, out_width = offset.shape[2:]
    taps = kernel[0] * kernel[1]
    deformable_groups = offset.shape[1] // (2 * taps)
    groups = channels // group_channels

    places = offset.unflatten(1, (deformable_groups, taps, 2)) + tap_positions(offset, kernel, options)
    samples = _bilinear(input.unflatten(1, (deformable_groups, -1)), places)  # (N, G, C / G, taps, Ho, Wo)
    if mask is not None:
        samples = samples * mask.view(batch, deformable_groups, 1, taps, out_height, out_width)
    patches = samples.reshape(batch, groups, group_channels * taps, out_height * out_width)
    filters = weight.reshape(groups, out_channels // groups, group_channels * taps)
    with torch.autocast(input.device.type, enabled=False):
        out = (filters @ patches).view(batch, out_channels, out_height, out_width)
    if bias is not None:
        out = out + bias.view(-1, 1, 1)
    return out.to(dtype)


def gradients(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    options: tuple[int, ...],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients for input, offset, weight and mask (no elements without one), given that of the output.

    They are differentiable in turn, in all tensors.
    """

    def call(input: Tensor, offset: Tensor, weight: Tensor, *mask: Tensor) -> Tensor:
        return deform_conv2d_reference(input, offset, weight, None, mask[0] if mask else None, options)

    tensors = (input, offset, weight) if mask is None else (input, offset, weight, mask)
    pull_back: Any = torch.func.vjp(call, *tensors)[1]
    found: tuple[Tensor, ...] = pull_back(grad)
    return found[0], found[1], found[2], input.new_empty(0) if mask is None else found[3]


def tap_positions(offset: Tensor, kernel: Sequence[int], options: tuple[int, ...]) -> Tensor:
    """Where the taps lie that no offset moves, (y, x) in input pixels: (kh * kw, 2, Ho, Wo)."""
    height, width = offset.shape[2:]
    rows = _positions(offset, kernel[0], height, *options[0::2]).repeat_interleave(kernel[1], 0)
    columns = _positions(offset, kernel[1], width, *options[1::2]).repeat(kernel[0], 1)
    rows, columns = rows[:, :, None].expand(-1, -1, width), columns[:, None].expand(-1, height, -1)
    return torch.stack((rows, columns), dim=1)


def in_reach(places: Tensor, size: Sequence[int]) -> Tensor:
    """Which of ``places`` (N, G, taps, 2, Ho, Wo) see an image of (height, width): bool (N, G, taps, Ho, Wo).

    Those at or below -1, at or above the size, or not a number do not.
    """
    ys, xs = places.unbind(3)
    return (ys > -1) & (ys < size[0]) & (xs > -1) & (xs < size[1])


def _positions(like: Tensor, kernel: int, size: int, stride: int, padding: int, dilation: int) -> Tensor:
    """The taps of an ordinary convolution along one axis, in input pixels: (kernel, size)."""
    tap = torch.arange(kernel, device=like.device, dtype=like.dtype) * dilation
    start = torch.arange(size, device=like.device, dtype=like.dtype) * stride - padding
    return tap[:, None] + start


def _bilinear(image: Tensor, places: Tensor) -> Tensor:
    """Values of ``image`` (N, G, C, H, W) at ``places`` (N, G, taps, 2, Ho, Wo): (N, G, C, taps, Ho, Wo).

    Outside the image it is zero; a sample out of reach is zero and has no gradient.
    """
    height, width = image.shape[-2:]
    near = in_reach(places, (height, width))
    ys, xs = (torch.where(near, place, 0) for place in places.unbind(3))
    top, left = ys.detach().floor(), xs.detach().floor()
    flat = image.flatten(3)
    shape = (*image.shape[:3], *ys.shape[2:])
    total = image.new_zeros(shape)
    for row, row_share in ((top, 1 - (ys - top)), (top + 1, ys - top)):
        for column, column_share in ((left, 1 - (xs - left)), (left + 1, xs - left)):
            inside = near & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
            index = index.flatten(2).unsqueeze(2).expand(-1, -1, image.shape[2], -1)
            share = torch.where(inside, row_share * column_share, 0)
            total = total + flat.gather(3, index).view(shape) * share.unsqueeze(2)
    return total
