"""Checkpoints with any fault: the run goes on from it or from the one before, or one line."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import training_toy as toy
from fuzzing import Tally, changed, fuzzed, mutated
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor


def tensors(tree: Any) -> list[tuple[Any, Any]]:
    """Where the tensors are."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [
        place
        for key, value in items
        for place in ([(tree, key)] if isinstance(value, Tensor) else tensors(value))
    ]


@pytest.mark.slow
def test_any_checkpoint_is_resumed_or_passed_over(tmp_path: Path) -> None:
    cfg = toy.config(SOLVER__MAX_ITER=10)
    toy.run(tmp_path / "whole", cfg)
    folder = tmp_path / "whole" / "checkpoints"
    name = "iter_0000010.pth"
    payload = torch.load(folder / name, weights_only=True)
    raw = (folder / name).read_bytes()
    tally = Tally()
    longer = toy.config(SOLVER__MAX_ITER=11)

    @st.composite
    def files(draw: st.DrawFn) -> bytes | Any:
        how = draw(st.sampled_from(["tree", "tree", "tensor", "tensor", "bytes"]))
        if how == "bytes":
            at = draw(st.integers(0, len(raw) - 1))
            return raw[:at] + draw(st.binary(max_size=8)) + raw[at + draw(st.integers(0, 8)) :]
        content = copy.deepcopy(payload)
        if how == "tree":
            return draw(mutated(content))
        container, key = draw(st.sampled_from(tensors(content)))
        container[key] = changed(container[key], draw(st.integers(0, 8)))
        return content

    @fuzzed
    @given(files())
    def fuzz(content: Any) -> None:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "run")
        target = tmp_path / "run" / "checkpoints" / name
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            torch.save(content, target)
        result = tally.run(lambda: toy.run(tmp_path / "run", longer, resume=True))
        if result is not None:
            assert all(torch.isfinite(p).all() for p in result.model.parameters())

    fuzz()
    tally.check()
