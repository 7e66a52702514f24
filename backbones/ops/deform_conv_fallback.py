"""Deformable convolution where the extension does not serve: torchvision's operator, else the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from backbones.ops.deform_conv_checks import check_arguments
from backbones.ops.deform_conv_reference import (
    deform_conv2d_reference,
    gradients,
    in_reach,
    tap_positions,
)

_HALF = (torch.float16, torch.bfloat16)


def serving(device: str) -> str:
    """What computes on a device of this type, in words."""
    return "torchvision's operator" if _torchvision_serves(device) else "the reference in PyTorch, slowly"


def forward(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, *options: int
) -> Tensor:
    """The kernel of ``convbody::deform_conv2d``, with half types computed in float32."""
    check_arguments(input, offset, weight, bias, mask, options)
    if not _torchvision_serves(input.device.type):
        out = deform_conv2d_reference(input, offset, weight, bias, mask, options)
    else:
        with torch.autocast(input.device.type, enabled=False):
            out = torch.ops.torchvision.deform_conv2d(
                *_for_torchvision(input, offset, weight, mask, options, bias)
            )
    return out.to(input.dtype, memory_format=memory_format(input))


def backward(
    grad: Tensor, input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The kernel of ``convbody::deform_conv2d_backward``; the last option asks for a repeatable result."""
    *sizes, deterministic = options
    # torchvision's backward adds up with atomics on a GPU.
    if not _torchvision_serves(input.device.type) or (deterministic and input.device.type != "cpu"):
        grads = gradients(grad, input, offset, weight, mask, tuple(sizes))
    else:
        wide = grad.float() if grad.dtype in _HALF else grad
        with torch.autocast(input.device.type, enabled=False):
            found = torch.ops.torchvision._deform_conv2d_backward(
                wide.contiguous(), *_for_torchvision(input, offset, weight, mask, tuple(sizes), None)
            )
        grads = (found[0], found[2], found[1], found[3] if mask is not None else input.new_empty(0))
    grad_input, *others = (found.to(input.dtype) for found in grads)
    grad_offset, grad_weight, grad_mask = (other.contiguous() for other in others)
    return grad_input.contiguous(memory_format=memory_format(input)), grad_offset, grad_weight, grad_mask


def _torchvision_serves(device: str) -> bool:
    """Whether torchvision is installed with a kernel for such a device."""
    try:
        import torchvision  # noqa: F401  (registers its operators)
    except ImportError:
        return False
    name = "torchvision::deform_conv2d"
    return device in ("cpu", "cuda") and torch._C._dispatch_has_kernel_for_dispatch_key(name, device.upper())


def _for_torchvision(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    options: tuple[int, ...],
    bias: Tensor | None,
) -> tuple[Any, ...]:
    """The arguments of torchvision's operators, in their order; they require a mask and a bias."""
    groups = input.shape[1] // weight.shape[1]
    offset_groups = offset.shape[1] // (2 * weight.shape[2] * weight.shape[3])
    tensors = [
        input,
        weight,
        offset,
        input.new_zeros(input.shape[0], 1) if mask is None else mask,
        input.new_zeros(weight.shape[0]) if bias is None else bias,
    ]
    tensors = [tensor.float() if tensor.dtype in _HALF else tensor for tensor in tensors]
    tensors[2] = _tame(tensors[2], input.shape[2:], weight.shape[2:], options)
    return (*(t.contiguous() for t in tensors), *options, groups, offset_groups, mask is not None)


def _tame(offset: Tensor, size: Sequence[int], kernel: Sequence[int], options: tuple[int, ...]) -> Tensor:
    """``offset`` with all samples that see nothing moved two pixels outside the image.

    There torchvision, too, has no gradient for them. It has one where they lie a pixel outside, and those
    that are not finite make it read where there is no image.
    """
    taps = tap_positions(offset, kernel, options)
    offset = offset.unflatten(1, (-1, *taps.shape[:2]))
    sees = in_reach(offset + taps, size).unsqueeze(3)
    return torch.where(sees, offset, -2 - taps).flatten(1, 3)


def memory_format(like: Tensor) -> torch.memory_format:
    """Contiguous or channels_last, whichever torch itself would give the result of a convolution."""
    return torch._prims_common.suggest_memory_format(like)
