"""Weight files with any fault: they fill a body, or one line."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import HOSTILE, Tally, changed, fuzzed
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from backbones import build_backbone
from backbones.weights import load_weights
from registry import load_cfg

BODY = ["MODEL.BACKBONE.CONV_BODY", "R-20-CIFAR"]
WRAPPERS = ["model", "state_dict", "model_state", "net", "ema", "model_ema", "state_dict_ema", "module", "x"]
PREFIXES = ["module.", "_orig_mod.", "model.", "backbone.", "body.", "x."]

EDITS = st.tuples(
    st.integers(0, 10**6),
    st.sampled_from(["change", "remove", "hostile", "rename", "keep"]),
    st.integers(0, 8),
    st.sampled_from(HOSTILE),
    st.text(max_size=8),
)


@pytest.mark.slow
def test_any_weight_file_fills_a_body_or_is_refused(tmp_path: Path) -> None:
    model = build_backbone(load_cfg(None, BODY))
    whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tally = Tally()

    def write(content: Any, suffix: str) -> Path:
        path = tmp_path / f"weights{suffix}"
        if suffix == ".safetensors":
            flat = content if isinstance(content, dict) else {}
            save_file({str(k): v.contiguous() for k, v in flat.items() if isinstance(v, torch.Tensor)}, path)
        elif suffix == ".pkl":
            path.write_bytes(pickle.dumps(_arrays(content), protocol=2))
        else:
            torch.save(content, path)
        return path

    @fuzzed
    @given(
        st.lists(EDITS, max_size=2),
        st.lists(st.sampled_from(PREFIXES), max_size=2),
        st.lists(st.sampled_from(WRAPPERS), max_size=2),
        st.sampled_from([".pth", ".pth", ".pkl", ".safetensors"]),
        st.none() | st.tuples(st.integers(0, 10**6), st.binary(max_size=8)),
    )
    def fuzz(edits: Any, prefixes: list[str], wrappers: list[str], suffix: str, damage: Any) -> None:
        model.load_state_dict(whole)
        path = write(wrapped(edited(whole, edits), prefixes, wrappers), suffix)
        if damage is not None:
            raw = path.read_bytes()
            at = damage[0] % (len(raw) + 1)
            path.write_bytes(raw[:at] + damage[1] + raw[at + 4 :])
        tally.run(lambda: load_weights(model, path))
        assert all(torch.isfinite(value).all() for value in model.state_dict().values())

    fuzz()
    tally.check()


def edited(whole: dict[str, Any], edits: Any) -> dict[Any, Any]:
    state: dict[Any, Any] = copy.copy(whole)
    for number, how, way, value, name in edits:
        key = list(whole)[number % len(whole)]
        tensor = state.pop(key, torch.zeros(1))
        if how == "change":
            state[key] = changed(tensor, way)
        elif how == "hostile":
            state[key] = value
        elif how == "rename":
            state[name] = tensor
        elif how == "keep":
            state[key] = tensor
    return state


def wrapped(state: dict[Any, Any], prefixes: list[str], wrappers: list[str]) -> Any:
    for prefix in prefixes:
        state = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    for wrapper in wrappers:
        state = {wrapper: state, "epoch": 3}
    return state


def _arrays(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _arrays(value) for name, value in content.items()}
    if isinstance(content, torch.Tensor):
        return content.numpy()
    return content
