"""Golden values of the published models, and the rule for weights and inputs that they were computed with."""

import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backbones import build_backbone
from registry import load_cfg

GOLDEN = Path(__file__).parent / "golden" / "resnet.json"


def weight_values(name: str, shape: torch.Size, damp: float) -> np.ndarray:
    """Each tensor has a generator of its own, seeded by its name; ``damp`` shrinks residual branches."""
    generator = np.random.default_rng(crc32(name.encode()))
    leaf = name.split(".")[-1]
    if ".offset." in f".{name}":
        values = generator.standard_normal(shape) * (0.5 if leaf == "bias" else 0.01)
    elif leaf == "weight" and len(shape) > 1:
        values = generator.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
    elif leaf in ("weight", "running_var"):
        values = generator.uniform(0.5, 1.5, shape)
    else:
        values = generator.standard_normal(shape) * 0.1
    values = values.astype(np.float32)
    return values * np.float32(damp) if re.search(r"(^|\.)bn3\.weight$", name) else values


@torch.no_grad()
def fill(module: nn.Module, damp: float = 1.0) -> nn.Module:
    """Overwrites every parameter and buffer of ``module`` and puts it in evaluation mode."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(weight_values(name, tensor.shape, damp)))
        else:
            tensor.zero_()
    return module.eval()


def image(height: int = 96, width: int = 128, count: int = 1, channels: int = 3) -> Tensor:
    values = np.random.default_rng(0).standard_normal((count, channels, height, width))
    return torch.from_numpy(values.astype(np.float32))


def assert_close(outputs: list[Tensor], wanted: list[dict], tolerance: float = 1e-4) -> None:
    """Shape, mean, standard deviation and a sample of values of every output, relative to its deviation."""
    assert len(outputs) == len(wanted)
    for output, want in zip(outputs, wanted, strict=True):
        assert list(output.shape) == want["shape"]
        flat = output.detach().double().flatten().numpy()
        where = np.random.default_rng(1).integers(0, flat.size, size=64)[: len(want["samples"])]
        scale = want["std"] + np.abs(want["samples"])
        assert np.all(np.abs(flat[where] - want["samples"]) <= tolerance * scale)
        assert abs(flat.mean() - want["mean"]) <= tolerance * want["std"]
        assert abs(flat.std() - want["std"]) <= tolerance * want["std"]


def state_digest(module: nn.Module) -> str:
    """Names, shapes and kinds: parameters in order (p learns, f is frozen), then buffers by name."""
    parameters = [(k, list(p.shape), "p" if p.requires_grad else "f") for k, p in module.named_parameters()]
    buffers = sorted((k, list(b.shape), "b") for k, b in module.named_buffers())
    lines = (f"{name} {shape} {kind}" for name, shape, kind in parameters + buffers)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def build(name: str, *opts: object) -> nn.Module:
    return build_backbone(load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", name, *opts]))


@pytest.fixture(scope="session")
def published() -> SimpleNamespace:
    """The golden records, and the functions that reproduce and compare them."""
    return SimpleNamespace(
        **json.loads(GOLDEN.read_text()),
        fill=fill,
        image=image,
        assert_close=assert_close,
        state_digest=state_digest,
        build=build,
    )
