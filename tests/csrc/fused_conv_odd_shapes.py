"""Calls the fused convolution of the library that is named at odd shapes; prints how many calls.

For a library that is built with a sanitizer: each tensor owns exactly its memory.
"""

import itertools
import sys

import torch

torch.ops.load_library(sys.argv[1])
fused_conv2d = torch.ops.convbody.fused_conv2d
torch.set_num_threads(2)
SIZES = ((1, 1, 1), (2, 3, 5), (1, 4, 4), (1, 13, 2), (3, 0, 4), (0, 4, 4), (1, 9, 30))
WIDTHS = ((32, 32), (64, 32), (32, 96))
LAYOUTS = (torch.contiguous_format, torch.channels_last)
calls = 0
for (batch, *size), (channels, out_channels), kernel, layout in itertools.product(
    SIZES, WIDTHS, (1, 3), LAYOUTS
):
    x = torch.randn(batch, channels, *size).to(memory_format=layout)
    weight, bias = torch.randn(out_channels, channels, kernel, kernel), torch.randn(out_channels)
    residual = torch.randn(batch, out_channels, *size).to(memory_format=layout)
    for given, relu in itertools.product(((None, None), (bias, None), (bias, residual)), (False, True)):
        fused_conv2d(x, weight, *given, relu)
        calls += 1
print(calls)
