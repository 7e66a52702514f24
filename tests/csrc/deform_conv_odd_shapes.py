"""Calls deformable convolution at odd shapes and compares it with the reference; see odd_shapes.py.

For a sanitizer, which ends the process at the first step beyond a buffer.
"""

import itertools
from functools import partial

import odd_shapes
import torch
from torch import Tensor

from backbones.ops.deform_conv_reference import deform_conv2d_reference

# batch, channels, out channels, height, width, kernel, groups, offset groups, stride, padding, dilation
CASES = [
    (2, 3, 5, 6, 7, (3, 3), 1, 1, (1, 1), (1, 1), (1, 1)),
    (1, 1, 1, 1, 1, (1, 1), 1, 1, (1, 1), (0, 0), (1, 1)),
    (0, 4, 4, 5, 5, (3, 3), 1, 1, (1, 1), (1, 1), (1, 1)),
    (2, 12, 6, 9, 8, (3, 2), 3, 4, (2, 1), (0, 2), (1, 2)),
    (1, 8, 8, 5, 1, (1, 3), 8, 2, (1, 3), (3, 4), (2, 1)),
    (2, 33, 19, 13, 14, (3, 3), 1, 3, (1, 2), (2, 1), (2, 2)),
    (1, 34, 50, 20, 11, (2, 2), 2, 1, (3, 3), (1, 0), (1, 1)),
    (1, 130, 70, 4, 30, (1, 1), 1, 1, (1, 1), (0, 0), (1, 1)),
]
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
REACHES = (2.0, 1e6)  # of offsets, in pixels


def strided(tensor: Tensor) -> Tensor:
    """The same values, every other in memory."""
    return torch.stack([tensor, tensor], -1)[..., 0]


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def check(device, *, case, dtype, layout, reach, mask, deterministic):
    batch, channels, out_channels, height, width, kernel = case[:6]
    groups, offset_groups, stride, padding, dilation = case[6:]
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return layout(torch.randn(shape, generator=generator).to(device, dtype))

    rows, columns = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip((height, width), kernel, stride, padding, dilation, strict=True)
    )
    taps = offset_groups * kernel[0] * kernel[1]
    input, weight = draw(batch, channels, height, width), draw(out_channels, channels // groups, *kernel)
    offset, bias = draw(batch, 2 * taps, rows, columns) * reach, draw(out_channels)
    if reach > 2 and batch:
        offset[0, 0, 0, 0], offset[0, 1, 0, 0], offset[-1, -1, -1, -1] = torch.inf, -3e38, torch.nan
    mask = draw(batch, taps, rows, columns) if mask else None
    grad = draw(batch, out_channels, rows, columns)
    options = (*stride, *padding, *dilation)
    out = torch.ops.convbody.deform_conv2d(input, offset, weight, bias, mask, *options)
    grads = torch.ops.convbody.deform_conv2d_backward(
        grad, input, offset, weight, mask, *options, deterministic
    )
    if dtype == torch.float64:
        leaves = [t.detach().cpu().requires_grad_() for t in (input, offset, weight, mask) if t is not None]
        modulation = leaves[3] if mask is not None else None
        wanted = deform_conv2d_reference(*leaves[:3], bias.cpu(), modulation, options)
        exact = torch.autograd.grad(wanted, leaves, grad.cpu())
        own = [t.cpu() for t in (out, *grads[: len(exact)])]
        torch.testing.assert_close(own, [wanted, *exact], atol=1e-9, rtol=1e-9)


if __name__ == "__main__":
    names = ("case", "dtype", "layout", "reach", "mask", "deterministic")
    flags, layouts = (True, False), (Tensor.contiguous, channels_last, strided)
    kinds = itertools.product(CASES, DTYPES, layouts, REACHES, flags, flags)
    odd_shapes.run([partial(check, **dict(zip(names, kind, strict=True))) for kind in kinds])
