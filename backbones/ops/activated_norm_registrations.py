"""The operators of the activated batch norm; importing this declares them.

The extension brings their schemas and kernels for the CPU and CUDA. Where it is absent, and on other devices,
the operators are the same with kernels in PyTorch. They have no derivatives of their own: together they make
the function that ``backbones.ops.activated_norm`` tells autograd about.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import Library, register_fake

from backbones.ops import activated_norm_fallback as fallback
from backbones.ops.checks import check_devices
from backbones.ops.library import absent

#: Those of csrc/library.cpp.
SCHEMAS = (
    "activated_norm_statistics(Tensor input) -> (Tensor mean, Tensor var)",
    "activated_norm(Tensor input, Tensor mean, Tensor var, Tensor weight, Tensor bias, float eps, "
    "str activation, float slope) -> Tensor",
    "activated_norm_sums(Tensor grad, Tensor output, Tensor weight, Tensor bias, float eps, "
    "str activation, float slope) -> Tensor",
    "activated_norm_backward(Tensor grad, Tensor output, Tensor var, Tensor weight, Tensor bias, "
    "Tensor means, float eps, str activation, float slope) -> Tensor",
)

_library = Library("convbody", "FRAGMENT")
if absent("cpu"):
    for schema in SCHEMAS:
        _library.define(schema)
absent("cuda")  # loads its kernels
_library.impl("activated_norm_statistics", fallback.statistics, "CompositeExplicitAutograd")
_library.impl("activated_norm", fallback.forward, "CompositeExplicitAutograd")
_library.impl("activated_norm_sums", fallback.sums, "CompositeExplicitAutograd")
_library.impl("activated_norm_backward", fallback.backward, "CompositeExplicitAutograd")


@register_fake("convbody::activated_norm_statistics", lib=_library)
def _fake_statistics(input: Tensor) -> tuple[Tensor, Tensor]:
    mean = input.new_empty(input.shape[1], dtype=fallback.wide(input))
    return mean, torch.empty_like(mean)


@register_fake("convbody::activated_norm", lib=_library)
def _fake_forward(
    input: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, *_: object
) -> Tensor:
    check_devices("activated_norm", input=input, mean=mean, var=var, weight=weight, bias=bias)
    return torch.empty_like(input, memory_format=fallback.memory_format(input))


@register_fake("convbody::activated_norm_sums", lib=_library)
def _fake_sums(grad: Tensor, output: Tensor, weight: Tensor, bias: Tensor, *_: object) -> Tensor:
    check_devices("activated_norm", output=output, grad=grad, weight=weight, bias=bias)
    return output.new_empty(2, output.shape[1], dtype=fallback.wide(output))


@register_fake("convbody::activated_norm_backward", lib=_library)
def _fake_backward(
    grad: Tensor, output: Tensor, var: Tensor, weight: Tensor, bias: Tensor, means: Tensor, *_: object
) -> Tensor:
    tensors = {"grad": grad, "var": var, "weight": weight, "bias": bias, "means": means}
    check_devices("activated_norm", output=output, **tensors)
    return torch.empty_like(output, memory_format=fallback.memory_format(output))
