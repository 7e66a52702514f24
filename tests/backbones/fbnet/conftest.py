from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

TINY = {
    "first": [8, 2],
    "stages": [
        [[1, 8, 1, 1]],
        [[2, 8, 2, 2]],
        [[2, 16, 1, 2]],
        [[2, 24, 2, 2]],
        [[2, 32, 1, 1]],
        [[2, 24, 1, 1]],
    ],
    "block_op_type": [
        ["ir_k3"],
        ["ir_k3", "skip"],
        ["ir_k5_e3_se"],
        ["ir_k3_s2", "ir_k33_e3"],
        ["ir_k3"],
        ["ir_k3"],
    ],
    "backbone": [0, 1, 2, 3],
    "bbox": [4],
    "rpn": [5],
}


@pytest.fixture
def tiny() -> dict[str, Any]:
    """A small architecture with several kinds of blocks, for a test to change."""
    return yaml.safe_load(yaml.safe_dump(TINY))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a definition to a file below tmp_path."""

    def to_file(definition: Any, name: str = "tiny.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(definition if isinstance(definition, str) else yaml.safe_dump(definition))
        return path

    return to_file
