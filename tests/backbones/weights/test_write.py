"""Weight files that cannot be written."""

import resource
import signal
from pathlib import Path

import pytest
import torch

from backbones.weights.write import SUFFIXES, write_tensors
from registry import ConvbodyError


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_a_disk_that_is_full_is_one_line(suffix, tmp_path):
    """As full as a file that may grow no further."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    file = Path(tmp_path, f"body{suffix}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(ConvbodyError, match=f"cannot write .*body{suffix}") as error:
            write_tensors({"stem.conv.weight": torch.zeros(30_000)}, file, "convbody")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "\n" not in str(error.value)
