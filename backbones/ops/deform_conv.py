"""Deformable convolution (Dai et al. 2017; modulated: Zhu et al. 2019)."""

from __future__ import annotations

from torch import Tensor


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Convolve ``x`` (N, C, H, W), sampling it bilinearly at displaced taps; outside the image it is zero.

    Args:
        x: (N, C, H, W).
        offset: (N, 2 * G * kh * kw, Ho, Wo), in pixels, (dy, dx) per tap, for G deformable groups.
        weight: (Cout, C / groups, kh, kw).
        bias: (Cout,) or None.
        stride, padding, dilation: as of any convolution.
        mask: (N, G * kh * kw, Ho, Wo), a factor per tap; None is the unmodulated operator.

    Returns:
        (N, Cout, Ho, Wo).
    """
    from torchvision.ops import deform_conv2d as operator

    out: Tensor = operator(x, offset, weight, bias, stride, padding, dilation, mask)
    return out
