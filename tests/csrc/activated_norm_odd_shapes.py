"""Calls the activated batch norm of the library that is named at odd shapes; prints how many calls.

For a library that is built with a sanitizer: each tensor owns exactly its memory.
"""

import itertools
import sys

import torch

torch.ops.load_library(sys.argv[1])
ops = torch.ops.convbody
torch.set_num_threads(2)
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
count = 0
for size, dtype, layout in itertools.product(SIZES, DTYPES, LAYOUTS):
    x, grad = (torch.randn(size).to(dtype, memory_format=layout) for _ in range(2))
    weight, bias = torch.randn(2, size[1], dtype=torch.promote_types(dtype, torch.float32)).clone().unbind()
    mean, var = ops.activated_norm_statistics(x)
    for activation in ("leaky_relu", "elu", "identity"):
        options = (1e-5, activation, 0.01)
        y = ops.activated_norm(x, mean, var, weight, bias, *options)
        sums = ops.activated_norm_sums(grad, y, weight, bias, *options)
        ops.activated_norm_backward(grad, y, var, weight, bias, sums, *options)
        count += 1
print(count)
