"""Worker processes that are killed."""

import os
import signal

import pytest
from torch.utils.data import DataLoader, Dataset

from convbody.data.workers import drawn
from registry import ConvbodyError


class Deadly(Dataset):
    """Its fourth item kills the process that asks for it."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_killed_worker_is_one_line_where_a_batch_is_drawn():
    before = signal.getsignal(signal.SIGCHLD)
    batches = drawn(DataLoader(Deadly(), batch_size=1, num_workers=1, prefetch_factor=1))
    assert signal.getsignal(signal.SIGCHLD) is before
    with pytest.raises(ConvbodyError, match="was killed, mostly because memory ran out") as error:
        list(batches)
    assert "\n" not in str(error.value)
    assert signal.getsignal(signal.SIGCHLD) is before


def test_other_errors_and_the_end_pass():
    assert [int(batch) for batch in drawn(DataLoader(range(3), batch_size=1))] == [0, 1, 2]

    def broken():
        yield 1
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(drawn(broken()))
