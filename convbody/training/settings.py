"""The settings of a run that can be judged by themselves, before anything is built."""

from __future__ import annotations

from collections.abc import Callable

from convbody.training import distributed
from convbody.training.metrics import board_type
from convbody.training.parallel import check_parallel
from convbody.training.schedule import learning_rate
from convbody.training.step import autocast_dtype, check_clipping
from registry import Config, ConfigError


def check_batches(cfg: Config) -> None:
    """Raises ConfigError for a number of images that no iteration can have."""
    if cfg.SOLVER.ACCUMULATE < 1:
        raise ConfigError("an iteration needs at least one batch", "SOLVER.ACCUMULATE", cfg)
    processes = distributed.world_size()
    if cfg.SOLVER.IMS_PER_BATCH < 1 or cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ConfigError(
            f"a batch must hold at least one image, and the same number for each of {processes} process(es)",
            "SOLVER.IMS_PER_BATCH",
            cfg,
        )


def check_board(cfg: Config) -> None:
    """Raises ConfigError where SOLVER.TENSORBOARD asks for what is not installed."""
    if cfg.SOLVER.TENSORBOARD and distributed.is_main():
        board_type()


#: Each raises ConfigError for a setting that cannot be used.
SETTINGS: tuple[Callable[[Config], object], ...] = (
    distributed.device_for,
    autocast_dtype,
    check_batches,
    learning_rate,
    check_clipping,
    check_parallel,
    check_board,
)
