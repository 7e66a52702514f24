"""Where the tensors of a file have their place in the module that is filled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from backbones.build import BodyAndNeck
from backbones.layers.deform_conv import DFConv2d
from backbones.spec import Backbone
from backbones.weights.dictionaries import without_wrappers
from backbones.weights.rules import fill, match

#: Where else in a detector of ours a tensor may have its place: name in a file -> name in the detector.
_OTHER_PLACES = (
    # The head of a C4 detector is the stage that its body leaves out.
    ("backbone.body.layer4.{rest}", "roi_heads.box_head.head.layer4.{rest}"),
    # An FPN whose convolutions are followed by a norm or a ReLU holds each in a sequence.
    ("backbone.fpn.fpn_inner{s}.{leaf}", "backbone.fpn.fpn_inner{s}.0.{leaf}"),
    ("backbone.fpn.fpn_layer{s}.{leaf}", "backbone.fpn.fpn_layer{s}.0.{leaf}"),
)


@dataclass(frozen=True)
class DeformableSlot:
    """The tensors of one deformable convolution in a module, by their names.

    Attributes:
        weight: of the convolution itself.
        plain: name of a tensor of a plain convolution in this place -> name of the one that it fills.
        offsets: names of what predicts the offsets, which a plain convolution has nothing for.
    """

    weight: str
    plain: Mapping[str, str]
    offsets: tuple[str, ...]


def deformable_slots(module: nn.Module) -> list[DeformableSlot]:
    """All deformable convolutions in ``module``."""
    slots = []
    for path, child in module.named_modules():
        if isinstance(child, DFConv2d):
            prefix = f"{path}." if path else ""
            plain = {f"{prefix}{leaf}": f"{prefix}conv.{leaf}" for leaf in child.conv.state_dict()}
            offsets = tuple(child.offset.state_dict(prefix=f"{prefix}offset."))
            slots.append(DeformableSlot(f"{prefix}conv.weight", plain, offsets))
    return slots


def places(module: nn.Module, target: Mapping[str, Tensor]) -> Iterator[dict[str, str]]:
    """Names in a detector of ours -> names in ``module``, whose tensors are ``target``.

    One for each part of a detector that ``module`` may be taken for.
    """
    names = {name: name for name in target}
    for slot in deformable_slots(module):
        names.update(slot.plain)
    for own, whole in _roots(module):
        yield _in_a_detector(names, own, whole)


def body_prefix(module: nn.Module) -> str:
    """Prefix of the names of the body in ``module``; "" when that is all of it."""
    for name, child in module.named_modules():
        if isinstance(child, Backbone):
            own = f"{name}." if name else ""
            return f"{own}body." if isinstance(child, BodyAndNeck) else own
    return ""


def _roots(module: nn.Module) -> list[tuple[str, str]]:
    """What may be meant by the names in ``module``: (prefix of the backbone in it, prefix in a detector)."""
    for name, child in module.named_modules():
        if isinstance(child, Backbone):
            own = f"{name}." if name else ""
            alone = not (name or isinstance(child, BodyAndNeck))
            return [(own, "backbone.body."), (own, "backbone.")] if alone else [(own, "backbone.")]
    return [("", "")]


def _in_a_detector(names: Mapping[str, str], own: str, whole: str) -> dict[str, str]:
    found = {
        whole + name.removeprefix(own) if name.startswith(own) else name: its for name, its in names.items()
    }
    for elsewhere, place in _OTHER_PLACES:
        for name, its in list(found.items()):
            values = match(place, name)
            if values is not None:
                found.setdefault(fill(elsewhere, values), its)
    for name, its in list(found.items()):  # a module may itself have names that a file is freed of
        found.setdefault(without_wrappers(name), its)
    return found
