"""Calls the activated batch norm at odd shapes, for a sanitizer; see odd_shapes.py.

Each tensor owns exactly its memory.
"""

import itertools
from functools import partial

import odd_shapes
import torch

SIZES = (
    (1, 1, 1, 2),
    (2, 3, 5, 7),
    (1, 17, 3, 3),
    (3, 65, 1, 1),
    (0, 4, 2, 2),
    (1, 2, 129, 257),
    (2, 16500, 1, 1),
)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
ACTIVATIONS = ("leaky_relu", "elu", "identity")


def call(device, *, size, dtype, layout, activation):
    ops = torch.ops.convbody
    x, grad = (torch.randn(size).to(dtype).to(device, memory_format=layout) for _ in range(2))
    wide = torch.promote_types(dtype, torch.float32)
    weight, bias = (torch.randn(size[1]).to(device, wide) for _ in range(2))
    options = (1e-5, activation, 0.01)
    mean, var = ops.activated_norm_statistics(x)
    y = ops.activated_norm(x, mean, var, weight, bias, *options)
    sums = ops.activated_norm_sums(grad, y, weight, bias, *options)
    ops.activated_norm_backward(grad, y, var, weight, bias, sums, *options)


if __name__ == "__main__":
    names = ("size", "dtype", "layout", "activation")
    kinds = itertools.product(SIZES, DTYPES, LAYOUTS, ACTIVATIONS)
    odd_shapes.run([partial(call, **dict(zip(names, kind, strict=True))) for kind in kinds])
