"""A toy task with all that makes resuming hard: batch norm, dropout, momentum, an average of the weights."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convbody.training import NonFiniteLossError, TrainResult, distributed, parallel, train
from registry import Config, ConvbodyError, load_cfg

Batch = tuple[Tensor, Tensor, list[str]]
OPTIONS = {
    "MODEL.DEVICE": "cpu",
    "SOLVER.BASE_LR": 0.05,
    "SOLVER.MAX_ITER": 20,
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.WARMUP_ITERS": 5,
    "SOLVER.CHECKPOINT_PERIOD": 5,
    "SOLVER.LOG_PERIOD": 5,
    "SOLVER.TENSORBOARD": False,
}


def config(**changes: Any) -> Config:
    """A config for tiny runs; ``SOLVER__MAX_ITER=3`` sets SOLVER.MAX_ITER."""
    options = OPTIONS | {key.replace("__", "."): value for key, value in changes.items()}
    return load_cfg(None, [part for pair in options.items() for part in pair])


class ToyNet(nn.Module):
    """(N, 3, 4, 4) -> (N, 2)."""

    def __init__(self, norm: bool = True, dropout: float = 0.3, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.norm(self.conv(x)).relu().mean(dim=(2, 3))))


def network(seed: int = 7, **kwargs: Any) -> ToyNet:
    """The same initial weights every time."""
    torch.manual_seed(seed)
    return ToyNet(**kwargs)


def sample(index: int) -> tuple[Tensor, Tensor]:
    """The index-th image and its target, which a linear function of the image's mean gives."""
    image = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(index))
    mean = image.mean(dim=(1, 2))
    return image, torch.stack([mean.sum(), mean[0] - mean[1]])


def stream(global_batch: int, start: int) -> Iterator[Batch]:
    """This process's share of consecutive batches."""
    share = global_batch // distributed.world_size()
    for position in count(start):
        first = position * global_batch + distributed.rank() * share
        images, targets = zip(*(sample(first + offset) for offset in range(share)), strict=True)
        yield torch.stack(images), torch.stack(targets), [f"image {first + i}" for i in range(share)]


def losses(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    difference = model(batch[0]) - batch[1]
    return {"loss_square": difference.square().mean(), "loss_absolute": 0.1 * difference.abs().mean()}


def evaluate(model: nn.Module, iteration: int) -> dict[str, float]:
    """Higher is better; it draws random numbers, which must not disturb the training."""
    torch.rand(3)
    images, targets = zip(*(sample(-1 - index) for index in range(8)), strict=True)
    return {"score": -float((model(torch.stack(images)) - torch.stack(targets)).square().mean())}


def run(folder: Path, cfg: Config, model: nn.Module | None = None, **options: Any) -> TrainResult:
    """Train the toy."""
    model = model or network()
    defaults: dict[str, Any] = {
        "stages": [("stem", [model.conv, model.norm])],
        "losses": losses,
        "batch_ids": lambda batch: batch[2],
        "evaluate": evaluate,
        "output_dir": folder,
    }
    batches = options.pop("batches", lambda start: stream(cfg.SOLVER.IMS_PER_BATCH, start))
    return train(cfg, model, batches, **{**defaults, **options})


def run_in_process(folder: Path, changes: dict[str, Any], options: dict[str, Any], drawn: Any = None) -> None:
    """For another process: train, then leave both models' weights in ``final_RANK.pth``.

    ``drawn``, a number in shared memory, counts the batches.
    """
    if drawn is not None:

        def batches(start: int) -> Iterator[Batch]:
            for batch in stream(OPTIONS["SOLVER.IMS_PER_BATCH"], start):
                drawn.value += 1
                yield batch

        options["batches"] = batches
    # Other processes begin with other weights, which must not matter.
    model = network(7 + distributed.rank(), **options.pop("network", {}))
    result = run(folder, config(**changes), model, **options)
    torch.save(
        parallel.whole([model.state_dict(), result.model.state_dict()]),
        folder / f"final_{distributed.rank()}.pth",
    )


def leave_statistics(folder: Path) -> None:
    """For another process: batch-norm statistics of this rank's images, before and after the broadcast."""
    model = network()
    model(next(stream(8, 0))[0])
    before = model.norm.running_mean.clone()
    distributed.broadcast_buffers(model)
    torch.save((before, model.norm.running_mean), folder / f"statistics_{distributed.rank()}.pth")


def meet_nonfinite_loss(folder: Path) -> None:
    """For another process: train with an image that is NaN, number 50, which only rank 1 sees."""

    def spoiled(start: int) -> Iterator[Batch]:
        for images, targets, names in stream(4, start):
            for image, name in zip(images, names, strict=True):
                if name == "image 50":
                    image.fill_(float("nan"))
            yield images, targets, names

    try:
        run(folder, config(), batches=spoiled)
    except NonFiniteLossError as error:
        (folder / f"error_{distributed.rank()}.txt").write_text(str(error))


def lose_the_disk(folder: Path) -> None:
    """For another process: train until the main process cannot write a row of metrics."""

    def batches(start: int) -> Iterator[Batch]:
        for number, batch in enumerate(stream(4, start), start):
            if number == 2 and distributed.is_main():
                (folder / "metrics.jsonl").unlink()
                (folder / "metrics.jsonl").symlink_to("/dev/full")
            yield batch

    _note_the_error(folder, batches)


def lose_a_batch(folder: Path) -> None:
    """For another process: train until image 50, which only rank 1 draws, cannot be read."""

    def batches(start: int) -> Iterator[Batch]:
        for batch in stream(4, start):
            if "image 50" in batch[2]:
                raise ConvbodyError("image 50 is damaged")
            yield batch

    _note_the_error(folder, batches)


def _note_the_error(folder: Path, batches: Callable[[int], Iterator[Batch]]) -> None:
    try:
        run(folder, config(), batches=batches)
    except ConvbodyError as error:
        (folder / f"error_{distributed.rank()}.txt").write_text(str(error))
