"""What a comparison comes to, in words."""

from __future__ import annotations

from convbody.compare.record import Place, Record
from convbody.compare.verdict import FACTOR, SHARE, Comparison, Row, Status


def verdict_sentences(comparison: Comparison) -> list[str]:
    """The conclusion: that the sides are the same, or where they part and what is known of that place."""
    row = comparison.parting
    if row is None:
        return _same(comparison)
    number = comparison.rows.index(row)
    texts = [f"They part {_where(row)}: {_how_far(row)}."]
    texts += filter(None, (_surroundings(comparison, number), _declared(comparison, row)))
    return texts


def _same(comparison: Comparison) -> list[str]:
    rows = comparison.rows
    compared = [row for row in rows if row.status is not Status.NOISE]
    worst = max(compared, key=lambda row: row.excess, default=None)
    text = f"The same within rounding, at all {len(rows)} places"
    if worst is not None and worst.error:
        text += f"; the largest error is {times(worst.excess)} what rounding explains, {_where(worst)}"
    noise = len(rows) - len(compared)
    texts = [text + "."]
    if noise:
        texts.append(f"{noise} of them hold nothing but rounding, and are no evidence.")
    return texts


def _where(row: Row) -> str:
    place = row.place
    if place.phase == "weights":
        return f"before the first step: {place}"
    if place.phase == "forward":
        return f"in the forward pass: {place}"
    if place.phase == "gradients":
        return f"in the gradients: {place}"
    if place.phase == "loss":
        return "in the loss" if place.name == "loss" else f"in the {place.name}"
    number = place.phase.removeprefix("step ")
    return f"in step {number}: {place}" if place.name.startswith("loss") else f"after step {number}: {place}"


def _how_far(row: Row) -> str:
    if row.status is not Status.PARTS:
        return row.detail
    of = "its change" if row.place.phase.startswith("step") else "its size"
    explained = f"{times(row.excess)} what rounding explains ({row.rounding:.1e})"
    if row.excess <= FACTOR and row.exact is not None:
        explained += f", and of {row.exact:.1e} in float64, where rounding explains next to nothing"
    return f"an error of {row.error:.1e} of {of}, {explained}"


def times(excess: float) -> str:
    """``"3.2 times"``, ``"1,400 times"``; very large ones in powers of ten."""
    if excess < 100:
        return f"{excess:.1f} times"
    return f"{float(f'{excess:.2g}'):,.0f} times" if excess < 1e6 else f"{excess:.0e} times"


def _surroundings(comparison: Comparison, number: int) -> str:
    """What agrees around the place, and so where to look."""
    row = comparison.rows[number]
    place, before = row.place, comparison.rows[:number]
    if place.phase == "weights":
        return "Everything after it follows from that: start from the same weights."
    if place.phase == "forward" and place.what == "input":
        last = next((r for r in reversed(before) if r.place.phase == "forward"), None)
        if last is None:
            hint = _reversed(comparison, row)
            return f"It is the first layer: look at what happens to an image before it.{hint}"
        return f"Everything before agrees, up to {last.place}: look at what lies between the two."
    if place.phase == "forward" and place.what == "output":
        if any(r.place == Place("forward", place.name, "input", place.call) for r in before):
            return "Its input and its weights agree: look at the layer itself."
        return "Every layer before agrees: look at what is done with their outputs."
    if place.phase == "loss":
        return "Every layer agrees: look at the loss."
    if place.phase == "gradients":
        return "Every output and the loss agree: look at the backward pass, from the loss to this layer."
    steps = "the step before" if place.phase != "step 1" else "its gradient"
    return f"All before agrees, {steps} included: look at how the optimiser, or the buffer, is updated."


def _reversed(comparison: Comparison, row: Row) -> str:
    """Whether the channels are the other way round, the most common mistake."""
    place = row.place
    here = comparison.first.places[place].value
    there = comparison.second.places[Place(place.phase, row.other, place.what, place.call)].value
    if here.shape == there.shape and here.dim() == 4 and bool((here.flip(1) == there).all()):
        return " With the channels reversed it is the same: RGB on one side is BGR on the other."
    return ""


def _declared(comparison: Comparison, row: Row) -> str:
    """What the sides say of the layer, or of the parameter's group in the optimiser, where that differs."""
    first, second = comparison.first, comparison.second
    if row.place.phase.startswith("step"):
        here, there = first.groups.get(row.place.name), second.groups.get(row.other)
        if here is not None and there is not None and here != there:
            keys = [key for key in here | there if here.get(key) != there.get(key)]
            return (
                "The optimiser has "
                + ", ".join(f"{k} {here.get(k)} here, {there.get(k)} there" for k in keys)
                + "."
            )
    texts = [_layer(first, row.place.name, row.place), _layer(second, row.other, row.place)]
    if all(texts) and texts[0] != texts[1]:
        return f"Here it is {texts[0]}, there {texts[1]}."
    return ""


def _layer(record: Record, name: str, place: Place) -> str:
    module = name if place.phase == "forward" else name.rpartition(".")[0]
    return record.modules.get(module, "")


#: For the end of a table.
NOTE = (
    "error and rounding (of both sides added up): root mean square, relative to the value's own\n"
    f"parts: an error above {FACTOR:g} times the rounding, or one in float64 above {SHARE:g} times of it"
)
