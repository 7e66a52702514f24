"""A run as one of several processes; a module of its own, so that other processes can import it."""

import os
from pathlib import Path

import torch

from convbody.classification.train import train_classifier
from convbody.training import distributed
from registry import load_cfg


def train_as_rank(rank: int, world: int, port: int, config: Path) -> None:
    """Train ``config`` as one of ``world`` processes, and leave the model's state in ``final_RANK.pth``."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    distributed.init_from_env()
    result = train_classifier(load_cfg(config, ["SEED", rank]))  # each begins with weights of its own
    torch.save(result.model.state_dict(), config.parent / f"final_{rank}.pth")
    distributed.shutdown()
