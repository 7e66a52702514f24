"""What benchmarks/supernet.py compares is one function, and the memory it reports is what was held."""

import supernet as benchmark
import torch


def test_the_sums_are_the_same():
    nets = benchmark.supernets()
    images, shares = torch.rand(2, 3, 8, 8), torch.full((13, 9), 1 / 9)
    nets["soft"].load_state_dict(nets["naive sum"].state_dict())
    torch.testing.assert_close(nets["soft"](images, shares), nets["naive sum"](images, shares))


def test_peak_memory_is_what_is_held_at_once():
    def step():
        first = torch.ones(2**20)  # 4 MiB
        second = first + 1
        del first, second
        torch.ones(2**20)

    assert round(benchmark.peak_mebibytes(step)) == 8
