"""Calls RoIAlign and suppression of the library that is named at odd shapes; prints how many calls.

For a library that is built with a sanitizer: each tensor owns exactly its memory.
"""

import itertools
import sys

import torch

torch.ops.load_library(sys.argv[1])
ops = torch.ops.convbody
torch.set_num_threads(2)
SIZES = ((1, 1, 1, 1), (2, 3, 5, 7), (1, 33, 3, 40), (3, 65, 40, 1), (1, 130, 20, 19), (1, 0, 2, 2))
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
POOLED = ((1, 1), (7, 7), (2, 9))
WHAT = ([0.0, 0, 4, 4], [-9, -9, 60, 60], [3, 3, 1, 1], [50, 50, 90, 90], [0, 0, torch.nan, torch.inf])
calls = 0
for size, dtype, layout, pooled, ratio in itertools.product(SIZES, DTYPES, LAYOUTS, POOLED, (0, 3)):
    x = torch.randn(size).to(dtype, memory_format=layout)
    rois = torch.tensor([[i % size[0], *box] for i, box in enumerate(WHAT)], dtype=dtype)
    for aligned, boxes in itertools.product((True, False), (rois, rois[:0])):
        out = ops.roi_align(x, boxes, 0.7, *pooled, ratio, aligned)
        last = layout == torch.channels_last
        ops.roi_align_backward(out, boxes, 0.7, *size, ratio, aligned, last)
        calls += 1

for count, dtype in itertools.product((0, 1, 2, 7, 8, 9, 65), DTYPES[:2]):
    boxes = torch.rand(count, 4, dtype=dtype)
    boxes[:, 2:] += boxes[:, :2]
    for groups in (None, torch.arange(count) % 3, torch.arange(count)):
        ops.nms_keep(boxes, groups, 0.3)
        calls += 1
print(calls)
