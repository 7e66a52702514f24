"""Which tensor and which module of one side is which of the other, by whole names."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from backbones.weights.lineages import LINEAGES
from backbones.weights.rules import Renamed
from registry import ConvbodyError

#: What the names of a part of a detector lack at their beginning.
_PARTS = ("", "body.", "backbone.", "backbone.body.")


@dataclass(frozen=True)
class Pairing:
    """Names of the first side -> names of the second.

    Attributes:
        tensors: of parameters and buffers.
        modules: of layers, blocks and stages: those whose tensors are each other's.
        only_first, only_second: tensors that the other side does not have.
    """

    tensors: dict[str, str]
    modules: dict[str, str]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


def pair(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Pairing:
    """Pairs the tensors of two state dicts, and the modules that hold them.

    Raises:
        ConvbodyError: there are no tensors in common, or a pair differs in shape.
    """
    tensors = _best(first, second)
    if not tensors:
        raise ConvbodyError(
            f"no tensor of one side is known on the other: {_few(first)} here, {_few(second)} there"
        )
    # What no rule names, but both sides call the same: the linear layer of a classifier.
    taken = set(tensors.values())
    tensors |= {name: name for name in first if name not in tensors and name in second and name not in taken}
    different = [
        f"{a} is {tuple(first[a].shape)}, {b} is {tuple(second[b].shape)}"
        for a, b in tensors.items()
        if first[a].shape != second[b].shape
    ]
    if different:
        raise ConvbodyError(
            f"{len(different)} of {len(tensors)} tensors differ in shape, so that no weights can be shared: "
            f"{'; '.join(different[:3])}"
        )
    theirs = set(tensors.values())
    return Pairing(
        tensors,
        _modules(tensors),
        tuple(name for name in first if name not in tensors),
        tuple(name for name in second if name not in theirs),
    )


def _best(first: Collection[str], second: Collection[str]) -> dict[str, str]:
    """First -> second, in the reading of the names under which most of them meet."""
    best: dict[str, str] = {}
    for reading in _readings(first, second):
        if len(reading) > len(best):
            best = reading
        if len(best) == min(len(first), len(second)):
            break
    return {name: best[name] for name in first if name in best}


def _readings(first: Collection[str], second: Collection[str]) -> Iterator[dict[str, str]]:
    """Every way to read the names: as they are, as parts of each other, by the rules of each lineage."""
    ours, theirs = set(first), set(second)
    for mine in _PARTS:
        for other in _PARTS:
            whole = {other + name: name for name in theirs}
            yield {name: whole[mine + name] for name in ours if mine + name in whole}
    for lineage in LINEAGES:
        for prefix in _PARTS:
            for mine in _PARTS:
                wanted = {mine + name: name for name in ours}
                renamed = lineage.to_ours(theirs, prefix, wanted)
                yield {wanted[new.name]: old for old, new in renamed.items() if _same(new, wanted)}
                # The other way round, where the first side is the foreign one.
                wanted = {mine + name: name for name in theirs}
                renamed = lineage.to_ours(ours, prefix, wanted)
                yield {old: wanted[new.name] for old, new in renamed.items() if _same(new, wanted)}


def _same(renamed: Renamed, wanted: Container[str]) -> bool:
    """Whether it is a tensor of the other side, in the same form: weights are carried as they are."""
    return renamed.name in wanted and renamed.change is None


def _modules(tensors: Mapping[str, str]) -> dict[str, str]:
    """Modules with the same tensors in them, pair by pair.

    Where modules inside each other hold the same tensors, a layer meets the innermost, others the outermost.
    """
    inside = _holders(tensors.values())
    by_tensors: dict[frozenset[str], list[str]] = {}
    for name, held in sorted(inside.items(), key=lambda item: item[0].count(".")):
        by_tensors.setdefault(frozenset(held), []).append(name)
    found: dict[str, str] = {}
    layers = {name.rpartition(".")[0] for name in tensors}
    for name, held in _holders(tensors).items():
        chain = by_tensors.get(frozenset(tensors[tensor] for tensor in held))
        if chain:
            found[name] = chain[-1] if name in layers else chain[0]
    return found


def _holders(tensors: Iterable[str]) -> dict[str, set[str]]:
    """Every module -> the tensors in it, at any depth."""
    holders: dict[str, set[str]] = {}
    for tensor in tensors:
        module = tensor.rpartition(".")[0]
        while module:
            holders.setdefault(module, set()).add(tensor)
            module = module.rpartition(".")[0]
    return holders


def _few(names: Collection[str]) -> str:
    shown = list(names)[:2]
    return f"{', '.join(shown)}, ..." if len(names) > 2 else ", ".join(shown) or "none"
