"""Deformable convolution (Dai et al. 2017; modulated: Zhu et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from backbones.ops import deform_conv_registrations as _  # noqa: F401  (declares the operator)
from backbones.ops.autocast import autocast_dtype
from backbones.ops.deform_conv_checks import check_arguments


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Convolve ``input``, sampling it bilinearly at displaced taps; outside the image it is zero.

    The arguments are those of ``torchvision.ops.deform_conv2d``. Tensors are float64, float32, float16 or
    bfloat16, all of one type, on one device; half types are summed in float32. Under autocast all are cast
    to its type, offsets too: a layer that predicts them there has them in that type anyway. The gradient can
    be taken twice and more, and forwards; these, and ``torch.func.grad``, take the memory of the reference.

    Args:
        input: (N, C, H, W), N may be 0.
        offset: (N, 2 * G * kh * kw, Ho, Wo), in pixels, (dy, dx) per tap, for G deformable groups: the
            channels of the input are shared out among them in order.
        weight: (Cout, C / groups, kh, kw); the groups follow from its shape.
        bias: (Cout,) or None.
        stride, padding, dilation: as of any convolution; one number, or one vertical and one horizontal.
        mask: (N, G * kh * kw, Ho, Wo), a factor per tap; None is the unmodulated operator.

    Returns:
        (N, Cout, Ho, Wo), of the type and in the memory format of the input.

    Raises:
        ArgumentError: shapes, types, devices or numbers that do not fit each other; says which.
    """
    options = (*_pair(stride), *_pair(padding), *_pair(dilation))
    dtype = autocast_dtype(input.device.type)
    if dtype is not None:
        input, offset, weight = (_cast(tensor, dtype) for tensor in (input, offset, weight))
        bias, mask = (None if tensor is None else _cast(tensor, dtype) for tensor in (bias, mask))
    check_arguments(input, offset, weight, bias, mask, options)
    out: Tensor = torch.ops.convbody.deform_conv2d(input, offset, weight, bias, mask, *options)
    return out


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """As autocast does: what is no floating point, and what is float64, stays."""
    return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor
