"""Several real processes that ``torch.distributed`` joins, as torchrun would start them."""

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

import torch
import torch.distributed as dist

from convbody.training import distributed

#: Starts processes fast: forked from one that has torch loaded and has not used it.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch._dynamo", "torch.distributed.fsdp", "fvcore.common.param_scheduler"])


def run_ranks(world: int, target: Callable[..., None], *args: Any, seconds: float = 120) -> None:
    """Call ``target(*args)`` in each of ``world`` processes, which are one group.

    When one fails, or after ``seconds``, all are ended and the test fails: none outlives the call.
    """
    # This process holds the store, as torchrun's agent does: a port that is chosen here and opened elsewhere
    # may be taken in between.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {**os.environ, "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1"}
    environment |= {"MASTER_PORT": str(store.port), "WORLD_SIZE": str(world)}
    places = [{**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    started = [PROCESSES.Process(target=_as_rank, args=(place, target, args)) for place in places]
    end = time.monotonic() + seconds
    try:
        for process in started:
            process.start()
        running = {process.sentinel: process for process in started}
        while running and not any(process.exitcode for process in started):
            ended = wait(running, end - time.monotonic())
            assert ended, f"still running after {seconds} s"
            for sentinel in ended:
                running.pop(sentinel).join()
        assert [process.exitcode for process in started if process.exitcode] == [], "see the traceback above"
    finally:
        for process in started:
            if process.is_alive():
                process.kill()
                process.join()


def _as_rank(environment: dict[str, str], target: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    distributed.init_from_env()
    target(*args)
    distributed.shutdown()
