"""Which dictionary of a file holds the weights, and what wrappers have put before their names."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

from torch import Tensor

from backbones.weights.pickle_file import PickledArray

#: Keys under which programs keep weights; the first that is there counts. Averages come last.
WRAPPERS = (
    *("model", "state_dict", "model_state", "model_state_dict", "net", "module", "blobs"),
    *("ema", "model_ema", "state_dict_ema"),
)
#: Names of modules that hold a whole model, as first parts of a name, in any order.
_PREFIXES = {"module", "model"}
#: Those of modules that hold any module, anywhere in a name.
_INSIDE = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

_MAX_DEPTH = 8
_MAX_LISTED = 12

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """A dictionary with named tensors.

    Attributes:
        path: the keys that lead to it, joined by dots; "" for all of the file.
        tensors: as the file has them, by their names there.
        others: paths of the dictionaries that might have been meant, too.
    """

    path: str
    tensors: dict[str, Tensor | PickledArray]
    others: tuple[str, ...]


def choose(content: Any, wanted: str = "") -> Chosen:
    """The dictionary at the path ``wanted``, or the first that is there in the order of ``WRAPPERS``.

    Either may itself have the weights under one of these keys.

    Raises:
        LookupError: there is none; the message lists those there are.
    """
    whole = content if isinstance(content, dict) else {}
    start = _at(whole, wanted) if wanted else whole
    if start is None:
        raise LookupError(f"has no dictionary {wanted}; {_listed(whole)}")
    found = list(_candidates(start, wanted, set(), 0))
    if not found:
        raise LookupError(f"holds no named tensors{f' under {wanted}' if wanted else ''}; {_listed(whole)}")
    path, tensors = found[0]
    return Chosen(path, tensors, tuple(path for path, _ in found[1:]))


def without_wrappers(name: str) -> str:
    """``name`` without what data-parallel wrappers, compilers and averages put into it.

    >>> without_wrappers("module._orig_mod.model.layer1._orig_mod.0.weight")
    'layer1.0.weight'
    """
    return _split(name)[1]


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Names without wrappers -> names as they are, in their order.

    Where two come to the same, that one counts which has before it what more of the names have, and the other
    is logged.
    """
    split = {name: _split(name) for name in names}
    prefixes = Counter(prefix for prefix, _ in split.values())
    first: dict[str, str] = {}
    for name, (_, plain) in sorted(split.items(), key=lambda item: -prefixes[item[1][0]]):
        if first.setdefault(plain, name) != name:
            logger.warning("%s is left out: %s stands in its place", name, first[plain])
    return {plain: name for name, (_, plain) in split.items() if first[plain] == name}


def _split(name: str) -> tuple[str, str]:
    """(what wrappers of a whole model put before a name, the name without any wrapper)."""
    *parts, leaf = name.split(".")
    begin = 0
    while begin < len(parts) and parts[begin] in _PREFIXES | _INSIDE:
        begin += 1
    return ".".join(parts[:begin]), ".".join([*(part for part in parts[begin:] if part not in _INSIDE), leaf])


def _candidates(
    content: dict[Any, Any], path: str, seen: set[int], depth: int
) -> Iterator[tuple[str, dict[str, Tensor | PickledArray]]]:
    """Dictionaries with tensors under the keys of ``WRAPPERS``; one with others in it is none itself."""
    if id(content) in seen or depth > _MAX_DEPTH:
        return
    seen.add(id(content))
    inside = False
    for key in WRAPPERS:
        child = dict.get(content, key)
        if isinstance(child, dict):
            for candidate in _candidates(child, f"{path}.{key}" if path else key, seen, depth + 1):
                inside = True
                yield candidate
    if not inside and (tensors := _tensors(content)):
        yield path, tensors


def _at(content: dict[Any, Any], path: str) -> dict[Any, Any] | None:
    """The dictionary at a path; keys may themselves have dots."""
    ends = [len(path), *(end for end, letter in enumerate(path) if letter == ".")]
    for end in ends:
        child = dict.get(content, path[:end])
        if isinstance(child, dict):
            found = _at(child, path[end + 1 :]) if end < len(path) else child
            if found is not None:
                return found
    return None


def _all_dictionaries(content: dict[Any, Any]) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Every dictionary in a file by its path, each once, the nearer first."""
    seen, level = {id(content)}, [("", content)]
    for _ in range(_MAX_DEPTH):
        following = []
        for path, held in level:
            for key, child in dict.items(held):
                if isinstance(key, str) and isinstance(child, dict) and id(child) not in seen:
                    seen.add(id(child))
                    following.append((f"{path}.{key}" if path else key, child))
        yield from following
        level = following


def _tensors(content: dict[Any, Any]) -> dict[str, Tensor | PickledArray]:
    # A dictionary out of a file may hide its own methods.
    return {name: value for name, value in dict.items(content) if isinstance(name, str) and _is_tensor(value)}


def _is_tensor(value: Any) -> TypeGuard[Tensor | PickledArray]:
    return isinstance(value, Tensor) or (isinstance(value, PickledArray) and value.dtype is not None)


def _listed(content: dict[Any, Any]) -> str:
    """What there is instead: the dictionaries with tensors, or else the keys."""
    holders = [path for path, held in _all_dictionaries(content) if _tensors(held)]
    if holders:
        return f"there are tensors under {_joined(holders)}: name one of them, as FILE#{holders[0][:60]}"
    keys = [str(key) if isinstance(key, str | int) else type(key).__name__ for key in dict.keys(content)]
    return f"its keys are {_joined(keys)}" if keys else "it has no keys"


def _joined(names: list[str]) -> str:
    short = [" ".join(name[:60].split()) for name in names[:_MAX_LISTED]]
    return ", ".join(short + ["..."] * (len(names) > _MAX_LISTED))
