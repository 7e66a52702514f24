"""What ``convbody::deform_conv2d`` means to tracing, autograd and vmap; importing this declares the operator.

The extension brings the schemas and kernels for the CPU and CUDA. Where it is absent, and on other devices,
the operator is the same with a slower kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function
from torch.library import Library, register_fake, register_vmap

from backbones.ops import deform_conv_fallback as fallback
from backbones.ops.checks import check_devices
from backbones.ops.deform_conv_reference import deform_conv2d_reference, gradients
from backbones.ops.library import absent

#: Those of csrc/library.cpp.
SCHEMAS = (
    "deform_conv2d(Tensor input, Tensor offset, Tensor weight, Tensor? bias, Tensor? mask, "
    "int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w) -> Tensor",
    "deform_conv2d_backward(Tensor grad, Tensor input, Tensor offset, Tensor weight, Tensor? mask, "
    "int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, bool deterministic) "
    "-> (Tensor grad_input, Tensor grad_offset, Tensor grad_weight, Tensor grad_mask)",
)
_FORWARD, _BACKWARD = "convbody::deform_conv2d", "convbody::deform_conv2d_backward"

_library = Library("convbody", "FRAGMENT")
if absent("cpu"):
    for schema in SCHEMAS:
        _library.define(schema)
absent("cuda")  # loads its kernels
_library.impl("deform_conv2d", fallback.forward, "CompositeExplicitAutograd")
_library.impl("deform_conv2d_backward", fallback.backward, "CompositeExplicitAutograd")
_forward = torch.ops.convbody.deform_conv2d.default
_backward = torch.ops.convbody.deform_conv2d_backward.default


@register_fake(_FORWARD, lib=_library)
def _fake(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, *options: int
) -> Tensor:
    check_devices("deform_conv2d", input=input, offset=offset, weight=weight, bias=bias, mask=mask)
    shape = (input.shape[0], weight.shape[0], *offset.shape[2:])
    return torch.empty(
        shape, dtype=input.dtype, device=input.device, memory_format=fallback.memory_format(input)
    )


@register_fake(_BACKWARD, lib=_library)
def _fake_backward(
    grad: Tensor, input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, *options: Any
) -> tuple[Tensor, ...]:
    check_devices("deform_conv2d", input=input, offset=offset, weight=weight, mask=mask, grad=grad)
    grad_input = torch.empty_like(input, memory_format=fallback.memory_format(input))
    others = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (offset, weight)]
    return (
        grad_input,
        *others,
        input.new_empty(0) if mask is None else torch.empty_like(mask, memory_format=torch.contiguous_format),
    )


class _DeformConv2d(Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        input, offset, weight, _, mask, *ctx.options = args
        needs = ctx.needs_input_grad
        if any(needs[:3]) or needs[4]:
            ctx.save_for_backward(input, offset, weight, mask)
        with torch._C._AutoDispatchBelowAutograd():
            out: Tensor = _forward(*args)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        needs = ctx.needs_input_grad
        found: tuple[Tensor | None, ...] = (None,) * 4
        if ctx.saved_tensors:
            deterministic = torch.are_deterministic_algorithms_enabled()
            found = _backward(grad, *ctx.saved_tensors, *ctx.options, deterministic)
        bias = grad.sum((0, 2, 3)) if needs[3] else None
        ordered = (*found[:3], bias, found[3])
        return (*(g if need else None for g, need in zip(ordered, needs, strict=False)), *(None,) * 6)


class _DeformConv2dBackward(Function):
    """The gradients as functions of what they are computed from, for the second derivative."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*args[:5])
        ctx.options = args[5:]
        with torch._C._AutoDispatchBelowAutograd():
            out: tuple[Tensor, ...] = _backward(*args)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, mask = ctx.saved_tensors
        tensors += [] if mask is None else [mask]

        def call(*tensors: Any) -> tuple[Tensor, ...]:
            return _plain_backward(*tensors, *([None] if mask is None else []), *ctx.options)

        pull_back: Any = torch.func.vjp(call, *tensors)[1]
        found = pull_back(grads)
        return (*found, *(None,) * (len(ctx.needs_input_grad) - len(found)))


def _differentiable(function: type[Function], plain: Callable[..., Any]) -> Callable[..., Any]:
    """The autograd kernel. Where ``function`` cannot say the derivative, PyTorch takes that of ``plain``:
    forwards (a function without a rule would drop the tangents), and inside ``torch.func``.
    """

    def kernel(*args: Any) -> Any:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if torch._C._are_functorch_transforms_active() or any(
            forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors
        ):
            return plain(*args)
        return function.apply(*args)

    return kernel


def _plain(*args: Any) -> Tensor:
    input, offset, weight, bias, mask, *options = args
    return deform_conv2d_reference(input, offset, weight, bias, mask, tuple(options))


def _plain_backward(*args: Any) -> tuple[Tensor, ...]:
    grad, input, offset, weight, mask, *options, _ = args
    return gradients(grad, input, offset, weight, mask, tuple(options))


_library.impl("deform_conv2d", _differentiable(_DeformConv2d, _plain), "Autograd")
_library.impl("deform_conv2d_backward", _differentiable(_DeformConv2dBackward, _plain_backward), "Autograd")


@register_vmap(_FORWARD, lib=_library)
def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    tensors = _batched(info.batch_size, in_dims, args[:5])
    if in_dims[2] is None and in_dims[3] is None:
        input, offset, mask = (None if t is None else t.flatten(0, 1) for t in (*tensors[:2], tensors[4]))
        out = _forward(input, offset, *args[2:4], mask, *args[5:])
        return out.unflatten(0, (info.batch_size, -1)), 0
    input, offset, mask = (_into_channels(tensors[i]) for i in (0, 1, 4))
    weight, bias = (None if t is None else t.flatten(0, 1) for t in tensors[2:4])
    return _forward(input, offset, weight, bias, mask, *args[5:]).unflatten(1, (info.batch_size, -1)), 1


@register_vmap(_BACKWARD, lib=_library)
def _vmap_backward(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
    grad, input, offset, weight, mask = _batched(info.batch_size, in_dims, args[:5])
    grad, input, offset, mask = (_into_channels(tensor) for tensor in (grad, input, offset, mask))
    found = list(_backward(grad, input, offset, weight.flatten(0, 1), mask, *args[5:]))
    dims = (1, 1, 0, None if mask is None else 1)
    split = [
        tensor if dim is None else tensor.unflatten(dim, (info.batch_size, -1))
        for tensor, dim in zip(found, dims, strict=True)
    ]
    return tuple(split), dims


def _batched(size: int, in_dims: tuple[int | None, ...], tensors: tuple[Tensor | None, ...]) -> list[Any]:
    """Every tensor with the dimension to map over in front."""
    return [
        tensor
        if tensor is None
        else (tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0))
        for tensor, dim in zip(tensors, in_dims, strict=False)
    ]


def _into_channels(tensor: Tensor | None) -> Tensor | None:
    """(B, N, C, ...) -> (N, B * C, ...): what is mapped over becomes groups of the convolution."""
    return None if tensor is None else tensor.movedim(0, 1).flatten(1, 2)
