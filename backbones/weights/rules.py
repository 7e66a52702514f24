"""The names of other code bases, both ways: rules between theirs and ours, and lineages made of rules.

A :class:`Rule` pairs a template of one name there with a template of one name here::

    Rule("res{s+1}_{b}_branch2a_w", "backbone.body.layer{s}.{b}.conv1.weight")

A field in braces stands for a whole number from 0; ``{s+1}``, ``{i*2}`` and ``{i*3+1}`` for the same number
after that sum. ``{leaf}`` and ``{name}`` stand for one part of a dotted name, ``{rest}`` for one or more.
Both templates of a rule have the same fields, so that each name follows from the other. Names match whole.

Ours are the names in a whole detector: ``backbone.body.*``, ``backbone.fpn.*``, ``rpn.*``, ``roi_heads.*``,
``head.*``. Loading into a backbone or a body alone is no concern of the rules; see ``load``.

Where a name alone does not say what it stands for, ``Rule.beside`` names other rules whose tensors must be
there too: a convolution lies at another index when a group norm follows it. Among the rules that fit a name
the first one counts whose result exists in the module that is filled, or simply the first.

A :class:`Lineage` is recognised by ``marks``, templates of names that tell it from our own. ``prefixes``
are put before every name of a file that holds only part of a model: ``("", "backbone.body.")`` reads
whole models and bodies alone. What takes more than one tensor at a time is done by ``complete`` before
reading, and by ``finish`` after writing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from registry import ConvbodyError
from registry.errors import in_one_line

State = Mapping[str, Tensor]
Fields = dict[str, str | int]

_FIELD = re.compile(r"\{([a-z]+)(?:\*(\d+))?(?:\+(\d+))?\}")
_NUMBER = r"(0|[1-9]\d*)"
_TEXTS = {"leaf": r"([^.]+)", "name": r"([^.]+)", "rest": r"(.+)"}


def match(template: str, name: str) -> Fields | None:
    """The values of the fields under which ``template`` is ``name``, or None.

    >>> match("res{s+1}_{b}_branch1_w", "res2_0_branch1_w")
    {'s': 1, 'b': 0}
    """
    pattern, fields = _compiled(template)
    found = pattern.fullmatch(name)
    if found is None:
        return None
    values: Fields = {}
    for (field, factor, addend), text in zip(fields, found.groups(), strict=True):
        if field in _TEXTS:
            values[field] = text
            continue
        value, remainder = divmod(int(text) - addend, factor)
        if remainder or value < 0:
            return None
        values[field] = value
    return values


def fill(template: str, values: Fields) -> str:
    """``template`` with its fields filled in.

    >>> fill("conv.{i*2+1}.{leaf}", {"i": 3, "leaf": "bias"})
    'conv.7.bias'
    """

    def text(field: re.Match[str]) -> str:
        value = values[field[1]]
        return value if isinstance(value, str) else str(value * int(field[2] or 1) + int(field[3] or 0))

    return _FIELD.sub(text, template)


@cache
def _compiled(template: str) -> tuple[re.Pattern[str], tuple[tuple[str, int, int], ...]]:
    """The expression of all names of a template, and (field, factor, addend) of each of its groups."""
    pattern, fields, end = "", [], 0
    for field in _FIELD.finditer(template):
        pattern += re.escape(template[end : field.start()]) + _TEXTS.get(field[1], _NUMBER)
        fields.append((field[1], int(field[2] or 1), int(field[3] or 0)))
        end = field.end()
    return re.compile(pattern + re.escape(template[end:])), tuple(fields)


@dataclass(frozen=True)
class Rule:
    """One tensor in both namings.

    Attributes:
        theirs, ours: templates of its name, with the same fields.
        to_ours, to_theirs: what becomes of the tensor when it is read and written; None leaves it as it is.
        beside: counts only where the tensors of these other rules, with the same fields, are there too.
    """

    theirs: str
    ours: str
    to_ours: Callable[[Tensor], Tensor] | None = None
    to_theirs: Callable[[Tensor], Tensor] | None = None
    beside: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Renamed:
    """A name in the other naming, and what has to be done to its tensor."""

    name: str
    change: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Lineage:
    """The naming of one code base.

    Attributes:
        name: as reports and ``--to`` name it.
        marks: templates; a file with a name that fits one may be of this lineage.
        rules: in order of precedence.
        prefixes: what names of files with part of a model may lack.
        ignored: templates of their names that hold no weights: anchors, solver state.
        complete: on all tensors of a file, before the rules: gives what the file leaves implicit.
        finish: on all tensors in their naming, after the rules: takes that away again.
        cuts_bodies: whether a body here may lack the last blocks of the file's; otherwise a file with more
            blocks than a stage of the body has is refused as one of a deeper body.
    """

    name: str
    marks: tuple[str, ...]
    rules: tuple[Rule, ...]
    prefixes: tuple[str, ...] = ("",)
    ignored: tuple[str, ...] = ()
    complete: Callable[[State], State] | None = None
    finish: Callable[[State], State] | None = None
    cuts_bodies: bool = False

    def marked(self, names: Collection[str]) -> bool:
        """Whether a file of these names may be of this lineage."""
        return any(match(mark, name) is not None for mark in self.marks for name in names)

    def ignores(self, name: str) -> bool:
        """Whether a name of a file holds no weights."""
        return any(match(template, name) is not None for template in self.ignored)

    def to_ours(
        self, names: Collection[str], prefix: str = "", wanted: Container[str] = ()
    ) -> dict[str, Renamed]:
        """Their names -> ours, as far as there are rules; among several, the one that is ``wanted``."""
        whole = {prefix + name for name in names}
        renamed = {}
        for name in names:
            found = [
                Renamed(fill(rule.ours, values), rule.to_ours)
                for rule in self.rules
                if (values := match(rule.theirs, prefix + name)) is not None
                and all(fill(other.theirs, values) in whole for other in rule.beside)
            ]
            if found:
                renamed[name] = next((each for each in found if each.name in wanted), found[0])
        return renamed

    def to_theirs(self, names: Collection[str]) -> dict[str, Renamed]:
        """Our names -> theirs, as far as there are rules."""
        whole = set(names)
        renamed = {}
        for name in names:
            for rule in self.rules:
                values = match(rule.ours, name)
                if values is not None and all(fill(other.ours, values) in whole for other in rule.beside):
                    renamed[name] = Renamed(fill(rule.theirs, values), rule.to_theirs)
                    break
        return renamed


def changed(tensor: Tensor, renamed: Renamed) -> Tensor:
    """The tensor under its new name.

    Raises:
        ConvbodyError: it is not of a shape that can be changed so.
    """
    try:
        return tensor if renamed.change is None else renamed.change(tensor)
    except (RuntimeError, IndexError) as error:
        raise ConvbodyError(
            f"{renamed.name} cannot be made of a tensor of shape {tuple(tensor.shape)} ({in_one_line(error)})"
        ) from error
