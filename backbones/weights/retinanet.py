"""RetinaNet heads elsewhere: the nine anchors of a cell in another order, boxes in another scale.

Ours, as maskrcnn-benchmark's, hold ratio by ratio the octaves of each, and box deltas times (10, 10, 5, 5).
Detectron and detectron2 hold octave by octave the ratios of each, and the deltas themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from registry import ConvbodyError

_RATIOS = _OCTAVES = 3
_SCALES = (10.0, 10.0, 5.0, 5.0)


def swap_anchors(tensor: Tensor) -> Tensor:
    """Outputs (9 * K, ...) by ratio, then octave -> by octave, then ratio; its own inverse.

    Raises:
        ConvbodyError: another number of outputs.
    """
    if tensor.shape[0] % (_RATIOS * _OCTAVES):
        raise ConvbodyError(
            f"RetinaNet's {tensor.shape[0]} outputs are not those of {_RATIOS} ratios, {_OCTAVES} octaves; "
            "the order of others cannot be converted"
        )
    by_anchor = tensor.unflatten(0, (_RATIOS, _OCTAVES, -1))
    return by_anchor.transpose(0, 1).flatten(0, 2).contiguous()


def scale_deltas(tensor: Tensor) -> Tensor:
    """Outputs (A * 4, ...) that predict box deltas -> that predict them times (10, 10, 5, 5)."""
    return tensor * _scales_like(tensor)


def unscale_deltas(tensor: Tensor) -> Tensor:
    """The inverse of :func:`scale_deltas`, to within one unit in the last place."""
    return tensor / _scales_like(tensor)


def _scales_like(tensor: Tensor) -> Tensor:
    scales = torch.tensor(_SCALES, dtype=tensor.dtype).repeat(tensor.shape[0] // len(_SCALES))
    return scales.view(-1, *[1] * (tensor.dim() - 1))
