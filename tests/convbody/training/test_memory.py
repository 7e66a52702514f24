"""Out of memory: one line with the batch that failed, one that fits, and the keys."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_toy as toy

from convbody.training import memory
from convbody.training.memory import OutOfMemoryError, fitting_images, is_out_of_memory, kept_bytes

OF_THE_CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 1073741824 bytes. Error code 12 (Cannot allocate memory)"
)
ERRORS = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError(OF_THE_CPU)]


def failing_above(limit, error):
    def losses(model, batch):
        if len(batch[0]) > limit:
            raise error
        return toy.losses(model, batch)

    return losses


@pytest.mark.parametrize("error", [*ERRORS, MemoryError()])
def test_what_allocators_say_is_recognised(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory"), KeyError("a")])
def test_other_errors_are_not(error):
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", ERRORS)
def test_the_message_has_the_batch_an_estimate_and_the_keys(tmp_path, error, monkeypatch):
    monkeypatch.setattr(memory, "fitting_images", lambda model, losses, batch: 1)
    with pytest.raises(OutOfMemoryError) as caught:
        toy.run(tmp_path, toy.config(SOLVER__ACCUMULATE=2), losses=failing_above(2, error))
    message = str(caught.value)
    assert "with a batch of 4 images" in message and "\n" not in message
    assert "set SOLVER.IMS_PER_BATCH 1, and SOLVER.ACCUMULATE 8 " in message
    assert "DTYPE bfloat16" in message and "MODEL.BACKBONE.CHECKPOINT_STAGES" in message
    assert str(error)[:40] in message


def test_where_no_image_fits(tmp_path):
    with pytest.raises(OutOfMemoryError, match="not even a single image fits"):
        toy.run(tmp_path, toy.config(), losses=failing_above(0, ERRORS[1]))


def test_an_update_that_does_not_fit(tmp_path, monkeypatch):
    def step(self, closure=None):
        raise ERRORS[1]

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    with pytest.raises(OutOfMemoryError, match="about 3 should fit: set SOLVER.IMS_PER_BATCH 3"):
        toy.run(tmp_path, toy.config())


def test_other_errors_pass(tmp_path):
    with pytest.raises(RuntimeError, match="shapes differ"):
        toy.run(tmp_path, toy.config(), losses=failing_above(0, RuntimeError("shapes differ")))


def test_the_estimate_grows_with_the_memory_there_is(monkeypatch):
    model, batch = toy.network(dropout=0.0), next(toy.stream(64, 0))
    each = kept_bytes(model, lambda: toy.losses(model, tuple(part[:2] for part in batch))) / 2
    found = {}
    for images in (0, 3, 10, 1000):
        free = 2 * each * (images + 0.5) + 2 * sum(4 * p.numel() for p in model.parameters())
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        found[images] = fitting_images(model, toy.losses, batch)
    assert found == {0: 0, 3: 3, 10: 10, 1000: 63}, "never as many as have failed"


REAL = """
import resource, sys, torch
from torch import nn
from convbody.training.memory import OutOfMemoryError, explained
from registry import load_cfg

torch.manual_seed(0)
model = nn.Sequential(*[nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(16)])
def losses(model, batch):
    return {"loss": model(batch[0]).square().mean()}
def attempt(count):
    cfg = load_cfg(None, ["SOLVER.IMS_PER_BATCH", count])
    batch = (torch.rand(1, 8, 64, 64).expand(count, -1, -1, -1), range(count))
    with explained(cfg, model, losses, batch):
        losses(model, batch)["loss"].backward()
attempt(4)  # what libraries take once
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)
try:
    attempt(2000)
except OutOfMemoryError as error:
    message = str(error)
print(message)
fits = int(message.split("about ")[1].split()[0])
attempt(fits)
print("fits", fits)
"""


@pytest.mark.slow
def test_a_real_one_and_the_estimate_fits():
    """Under a limit of 400 MiB; a pass of this network keeps 2 MiB for an image."""
    root = Path(memory.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", REAL], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    message, fits = done.stdout.splitlines()
    assert "out of memory with a batch of 2000 images" in message and "can't allocate memory" in message
    assert 50 < int(fits.split()[1]) < 150
