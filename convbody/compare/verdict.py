"""Two records side by side: how far apart every place is, what rounding explains, and where it ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from torch import Tensor

from convbody.compare.names import Pairing
from convbody.compare.observe import rms
from convbody.compare.record import Place, Record, Seen
from registry import ConvbodyError

#: Two sides part where they differ by more than this many times their own rounding errors. If both compute
#: the same function, the difference is at most the sum of the two errors (triangle inequality).
FACTOR = 4.0

#: The same in float64, where rounding does not hide it: two sides part where their results in float64
#: differ by more than this share of their rounding errors in float32.
SHARE = 0.1

#: Half a unit in the last place of float32, relative to the size of a value.
ULP = 2.0**-24

#: A value with a larger share of rounding than this says nothing about the port.
_NOISE = 0.1


class Status(Enum):
    """What a place says."""

    EXACT = "equal"  # to the last bit
    ROUNDING = "rounding"  # apart, by no more than rounding explains
    NOISE = "noise"  # nothing but rounding on both sides: no evidence either way
    PARTS = "parts"  # further apart than rounding explains
    SHAPE = "shape"  # other shapes
    NOT_FINITE = "not finite"  # NaN or infinite on one side


@dataclass(frozen=True)
class Row:
    """One place on both sides.

    Attributes:
        place: in the names of the first side.
        other: its name on the second.
        shape: of the first side's tensor.
        error: root mean square of the difference, relative to ``size``.
        rounding: the rounding errors of both sides added up, relative to ``size``.
        size: root mean square of the first side's tensor; after a step, of its change since the start.
        exact: the error of the results in float64, relative to ``size``; None where it says nothing.
        status: what follows.
        detail: what is to be said where they part.
    """

    place: Place
    other: str
    shape: tuple[int, ...]
    error: float
    rounding: float
    size: float
    status: Status
    exact: float | None = None
    detail: str = ""

    @property
    def parts(self) -> bool:
        """Whether the two sides part here."""
        return self.status in (Status.PARTS, Status.SHAPE, Status.NOT_FINITE)

    @property
    def excess(self) -> float:
        """The error as a multiple of what rounding explains."""
        return self.error / max(self.rounding, ULP)


@dataclass(frozen=True)
class Comparison:
    """All places that both sides have, in the order in which the first side comes to them."""

    first: Record
    second: Record
    pairing: Pairing
    rows: tuple[Row, ...]

    @cached_property
    def parting(self) -> Row | None:
        """The first place where the sides part; None when they are the same within rounding."""
        return next((row for row in self.rows if row.parts), None)

    @property
    def one_sided(self) -> list[str]:
        """Parameters that get a gradient on one side alone, in the names of the first."""
        seen = [{p.name for p in each.places if p.phase == "gradients"} for each in (self.first, self.second)]
        pairs = self.pairing.tensors.items()
        return [a for a, b in pairs if (a in seen[0]) != (b in seen[1])]


def compare(first: Record, second: Record, pairing: Pairing) -> Comparison:
    """Compares two records whose names ``pairing`` relates.

    Raises:
        ConvbodyError: the two were given other batches, or a place is not finite on both sides.
    """
    _require_one_batch(first, second)
    rows: list[Row] = []
    # From other weights, however little, follow other results in float64.
    precise = first.pure and second.pure
    start = first.weights
    for place in _in_order(first):
        name = _other_name(place, pairing)
        seen = first.places[place]
        other = second.places.get(Place(place.phase, name, place.what, place.call)) if name else None
        if other is None:
            continue
        before = start[place.name] if place.phase.startswith("step") and place.name in start else None
        row = _row(place, str(name), seen, other, before, precise)
        precise &= place.phase != "weights" or row.status is Status.EXACT
        if row.status is Status.NOT_FINITE and not any(each.parts for each in rows):
            _require_one_finite(place, seen, other)
        rows.append(row)
    return Comparison(first, second, pairing, tuple(rows))


def _in_order(record: Record) -> list[Place]:
    """Places as they come about; gradients from the last layer to the first, as backpropagation goes."""
    depth = {
        place.name: index for index, place in enumerate(record.places) if place.phase == "forward"
    }  # of a module that is used again, the last use
    places = list(record.places)
    gradients = [place for place in places if place.phase == "gradients"]
    if not gradients:
        return places
    start = places.index(gradients[0])
    gradients.sort(key=lambda place: -depth.get(place.name.rpartition(".")[0], 0))
    return places[:start] + gradients + [place for place in places[start:] if place.phase != "gradients"]


def _other_name(place: Place, pairing: Pairing) -> str | None:
    if place.phase == "forward":
        named = pairing.modules.get(place.name)
        return named if named is not None or place.what != "value" else place.name
    named = pairing.tensors.get(place.name)
    return named if named is not None or not place.name.startswith("loss") else place.name


def _row(place: Place, name: str, first: Seen, second: Seen, before: Tensor | None, precise: bool) -> Row:
    a, b = first.value.double(), second.value.double()
    shape = tuple(a.shape)
    if a.shape != b.shape:
        inf = float("inf")
        detail = f"shape {shape} here, {tuple(b.shape)} there"
        return Row(place, name, shape, inf, 0.0, 0.0, Status.SHAPE, detail=detail)
    bad = [side for side, value in (("here", a), ("there", b)) if not bool(value.isfinite().all())]
    if bad:
        inf = float("inf")
        detail = f"not finite {' and '.join(bad)}"
        return Row(place, name, shape, inf, 0.0, 0.0, Status.NOT_FINITE, detail=detail)
    size = rms(a if before is None else a - before.double())
    whole = rms(a)
    # Who has not measured their rounding is taken to round as the other side does.
    own = first.rounding if first.rounding is not None else second.rounding or 0.0
    others = second.rounding if second.rounding is not None else own
    error, rounding = rms(a - b), own + others
    exact = None
    if precise and first.residual is not None and second.residual is not None:
        exact = rms(a - b + (first.residual.double() - second.residual.double()))
    if error > FACTOR * rounding + ULP * whole or (
        exact is not None and exact > SHARE * rounding + ULP * ULP * whole
    ):
        status = Status.PARTS
    elif exact is None and rounding > _NOISE * size and rounding > 0.0:
        status = Status.NOISE
    else:
        status = Status.ROUNDING if error > 0.0 else Status.EXACT
    scale = max(size, 1e-300)
    exact = None if exact is None else exact / scale
    return Row(place, name, shape, error / scale, rounding / scale, size, status, exact)


def _require_one_batch(first: Record, second: Record) -> None:
    for name in sorted(first.batch.keys() | second.batch.keys()):
        here, there = first.batch.get(name), second.batch.get(name)
        if here is None or there is None or here.shape != there.shape:
            shapes = [tuple(each.shape) if each is not None else "missing" for each in (here, there)]
            raise ConvbodyError(f"the batches differ: {name} is {shapes[0]} here, {shapes[1]} there")
        if not bool((here == there).all()):
            raise ConvbodyError(f"the batches differ: {name} has other values")


def _require_one_finite(place: Place, first: Seen, second: Seen) -> None:
    if not any(bool(each.value.isfinite().all()) for each in (first, second)):
        raise ConvbodyError(
            f"{place} is not finite on either side ({place.phase}), and nothing can be compared from there; "
            "give weights and a batch that keep it finite"
        )
