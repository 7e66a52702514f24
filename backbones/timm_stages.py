"""The stages of a timm model whose features are named after no modules, by what each feature depends on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def stages_by_dependency(net: nn.Module, size: tuple[int, int]) -> list[list[str]]:
    """Names of modules and parameters: the stem's, then for each feature those that no earlier one needs.

    The stem is the first module that the first feature needs, with the parameters that stand before it.

    Args:
        net: the model on the meta device, where nothing is computed; its graph is read.
        size: height and width of an image that it takes.
    """
    features = net.train()(torch.empty(2, 3, *size, device="meta"))
    needed: dict[int, int] = {}
    for position, feature in enumerate(features):
        for parameter in _leaves(feature):
            needed.setdefault(id(parameter), position)
    last = len(features) - 1
    parameters = net.named_parameters(remove_duplicate=False)  # one may stand in several modules
    first = {name: needed.get(id(parameter), last) for name, parameter in parameters}
    stages: list[list[str]] = [[] for _ in range(len(features) + 1)]
    stem_ended = False
    for name, position in _units(net, "", first):
        in_stem = position == 0 and not stem_ended
        stages[0 if in_stem else position + 1].append(name)
        stem_ended = stem_ended or name not in first  # a module, no parameter
    return stages


def part(net: nn.Module, name: str) -> nn.Module:
    """The module of that name, or a list of the one parameter."""
    path, _, leaf = name.rpartition(".")
    owner = net.get_submodule(path)
    if leaf in owner._parameters:
        return nn.ParameterList([owner.get_parameter(leaf)])
    return owner.get_submodule(leaf)


def _units(module: nn.Module, path: str, first: dict[str, int]) -> Iterator[tuple[str, int]]:
    """The largest modules whose parameters all belong to one feature, and loose parameters, in order."""
    position = 0
    for name, _ in module.named_parameters(recurse=False):
        position = first[path + name]
        yield path + name, position
    for name, child in module.named_children():
        inside = path + name
        held = {first[f"{inside}.{key}"] for key, _ in child.named_parameters()} or {position}
        position = max(held)
        if len(held) == 1:
            yield inside, position
        else:
            yield from _units(child, f"{inside}.", first)


def _leaves(output: Tensor) -> Iterator[Tensor]:
    """The parameters that ``output`` was computed from, by its graph."""
    nodes, seen = [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        nodes.extend(following for following, _ in node.next_functions)
