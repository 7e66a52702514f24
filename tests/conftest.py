"""What every test shares: fixed seeds, quiet and repeatable tools."""

import os
import random
import sys

# Before torch is imported anywhere: the processes that run tests share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

settings.register_profile("convbody", deadline=None, derandomize=True)
settings.load_profile("convbody")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests for a GPU where torch has none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="there is no GPU"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state. Libraries that a test did not import stay unimported."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
