"""Batches drawn and copied one ahead: in order, each once, and without a trace in what a run records."""

from itertools import count

import pytest
import torch
import training_toy as toy

from convbody.training.prefetch import OneAhead, on_device
from registry import ConvbodyError


class Copies:
    """Stands in for the GPU: notes when a copy starts, and when it is waited for."""

    def __init__(self):
        self.notes = []

    def start(self, batch):
        self.notes.append(("start", batch))

        def finish():
            self.notes.append(("wait", batch))
            return batch

        return finish


def failing_at(position):
    for number in count():
        if number == position:
            raise ConvbodyError(f"batch {number} is broken")
        yield number


def test_a_copy_starts_before_the_batch_before_is_used_and_is_not_waited_for():
    copies = Copies()
    for batch in OneAhead(iter(range(3)), copies.start):
        copies.notes.append(("use", batch))
    assert copies.notes == [
        *(("start", 0), ("wait", 0), ("start", 1), ("use", 0)),
        *(("wait", 1), ("start", 2), ("use", 1)),
        *(("wait", 2), ("use", 2)),
    ]


def test_nothing_is_drawn_before_the_first_batch_is_wanted():
    copies = Copies()
    OneAhead(iter(range(3)), copies.start)
    assert copies.notes == []


def test_an_error_waits_for_its_turn():
    batches = OneAhead(failing_at(2), Copies().start)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(ConvbodyError, match="batch 2 is broken"):
        next(batches)


def test_on_the_cpu_nothing_is_in_the_way():
    stream = iter([1, 2])
    assert on_device(stream, torch.device("cpu")) is stream


@pytest.fixture
def ahead(monkeypatch):
    """Runs draw one batch ahead, as on a GPU."""
    monkeypatch.setattr(
        "convbody.training.loop.on_device", lambda stream, device: OneAhead(stream, Copies().start)
    )


def test_a_run_and_its_continuation_are_those_without(ahead, tmp_path, same_weights, monkeypatch):
    changes = {"SOLVER__ACCUMULATE": 2, "SOLVER__MAX_ITER": 10}
    whole, resumed = toy.network(), toy.network()
    calls = count(1)

    def stopping(model, batch):
        if next(calls) == 14:  # in iteration 7, with batch 14 drawn and not used
            raise KeyboardInterrupt
        return toy.losses(model, batch)

    with pytest.raises(KeyboardInterrupt):
        toy.run(tmp_path / "stopped", toy.config(**changes), losses=stopping)
    toy.run(tmp_path / "stopped", toy.config(**changes), resumed, resume=True)
    monkeypatch.undo()
    toy.run(tmp_path / "whole", toy.config(**changes), whole)
    assert same_weights(resumed.state_dict(), whole.state_dict())


def test_the_iterations_before_a_broken_batch_are_kept(ahead, tmp_path):
    cfg = toy.config(SOLVER__CHECKPOINT_PERIOD=1)

    def breaking(start):
        for number, batch in zip(count(start), toy.stream(4, start), strict=False):
            if number == 3:
                raise ConvbodyError("broken")
            yield batch

    with pytest.raises(ConvbodyError, match="broken"):
        toy.run(tmp_path, cfg, batches=breaking)
    assert max((tmp_path / "checkpoints").glob("iter_*")).name == "iter_0000003.pth"


@pytest.mark.gpu
def test_the_gpu_gets_the_same_batches():
    device = torch.device("cuda", 0)
    wanted = [
        ([torch.full((3, 500, 700), float(n))], [{"id": torch.tensor(n), "name": str(n)}]) for n in range(8)
    ]
    pinned = (([images[0].pin_memory()], targets) for images, targets in wanted)
    work = torch.rand(3000, 3000, device=device)
    for given, (images, targets) in zip(on_device(pinned, device), wanted, strict=True):
        work = (work @ work).clamp(0, 1)  # the GPU is behind while the next copy starts
        total = given[0][0].sum() + 0 * work.sum()
        assert given[0][0].device == given[1][0]["id"].device == device
        assert float(total) == float(images[0].sum()) and given[1][0]["name"] == targets[0]["name"]


@pytest.mark.gpu
def test_a_run_on_the_gpu_goes_on_where_it_stopped(tmp_path, same_weights):
    def losses(model, batch):
        return toy.losses(model, tuple(part.to("cuda") for part in batch[:2]))

    ends = []
    for stops in ((10,), (4, 10)):
        for stop in stops:
            model = toy.network()
            cfg = toy.config(MODEL__DEVICE="cuda", SOLVER__MAX_ITER=stop)
            toy.run(tmp_path / str(len(stops)), cfg, model, losses=losses, evaluate=None, resume=True)
        ends.append(model.state_dict())
    assert same_weights(*ends)
