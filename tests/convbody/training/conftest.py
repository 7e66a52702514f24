from collections.abc import Callable

import pytest


@pytest.fixture
def same_weights() -> Callable[[dict, dict], bool]:
    """Whether two state dicts are equal to the last bit."""
    import torch

    def same(left: dict, right: dict) -> bool:
        return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)

    return same
