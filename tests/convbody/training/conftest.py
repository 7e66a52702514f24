import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

# Other processes import the toy by name.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def processes() -> BaseContext:
    """Starts real processes fast: forked from one that has torch loaded and has not used it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch._dynamo", "torch.distributed.fsdp", "fvcore.common.param_scheduler"]
    )
    return context


@pytest.fixture
def same_weights() -> Callable[[dict, dict], bool]:
    """Whether two state dicts are equal to the last bit."""
    import torch

    def same(left: dict, right: dict) -> bool:
        return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)

    return same
