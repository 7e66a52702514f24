"""The data-parallel clause of the backbone contract: two processes on the CPU, joined by gloo.

They are started as ``python -m backbones.contract_parallel``, so that the caller may be a script without a
main guard, a notebook or a REPL.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from backbones.build import build_backbone
from backbones.spec import Backbone
from registry import BACKBONES, BODIES, NECKS, Config, ConvbodyError, parse_conv_body
from registry.plugins import load_plugins

PROCESSES = 2
_TIMEOUT = timedelta(minutes=5)  # of one collective call
_WORKER = "CONVBODY_CONTRACT_WORKER"


def is_worker() -> bool:
    """Whether this is one of the processes that a check has started.

    Such a process may import the script that defines a backbone, and with it the script's own check.
    """
    return _WORKER in os.environ


def check_data_parallel(cfg: Config) -> str:
    """Trains two steps in two processes; what went wrong, or "" when both end with the same weights.

    Raises:
        ConvbodyError: the backbone is defined where no other process can import it, as in a notebook.
    """
    sources = _sources(cfg)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "task").write_bytes(pickle.dumps((cfg, sources)))
        env = {**os.environ, _WORKER: "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "backbones.contract_parallel", folder]
        processes = [
            subprocess.Popen(
                [*command, str(rank)], env=env, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            for rank in range(PROCESSES)
        ]
        said = [process.communicate()[1].strip() for process in processes]
        found = [path.read_text() for path in sorted(Path(folder).glob("rank*"))]
        for rank, process in enumerate(processes):
            if process.returncode:
                last = said[rank].splitlines()[-1:] or ["no message"]
                found.append(f"rank {rank} ended with status {process.returncode}: {last[0]}")
        return "; ".join(filter(None, found))


def _sources(cfg: Config) -> list[str]:
    """Files that define the parts: a fresh process has not imported what this one registered."""
    parsed = parse_conv_body(cfg.MODEL.BACKBONE.CONV_BODY)
    found = [(BACKBONES if parsed.whole else BODIES).find(parsed.body)]
    if parsed.neck is not None:
        found.append(NECKS.find(parsed.neck))
    for place in found:
        if not Path(place.file).is_file():
            raise ConvbodyError(
                f"{cfg.MODEL.BACKBONE.CONV_BODY} is defined in {place.file or 'no file'}, which other "
                "processes cannot import: move it into a .py file, or pass data_parallel=False"
            )
    return [place.file for place in found]


def _work(folder: str, rank: int) -> None:
    torch.set_num_threads(1)
    cfg, sources = pickle.loads(Path(folder, "task").read_bytes())
    report = Path(folder, f"rank{rank}")
    load_plugins(cfg.PLUGINS, "PLUGINS")
    try:
        parse_conv_body(cfg.MODEL.BACKBONE.CONV_BODY)
    except ConvbodyError:
        load_plugins(sources, "the backbone contract")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES, timeout=_TIMEOUT
    )
    try:
        failure = _train(build_backbone(cfg), rank)
    except Exception as error:
        report.write_text(f"rank {rank}: {type(error).__name__}: {error}")
        # The other process may wait for this one in a collective: closed connections wake it. The
        # interpreter's own end would abort in gloo's threads.
        os._exit(0)
    report.write_text(f"rank {rank}: {failure}" if failure else "")
    dist.destroy_process_group()


def _train(model: nn.Module, rank: int) -> str:
    parallel = DistributedDataParallel(model)
    before = {key: value.clone() for key, value in _frozen_state(model).items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    torch.manual_seed(rank)
    for _ in range(2):
        features = parallel.train()(torch.rand(2, 3, 65, 96))
        optimizer.zero_grad()
        torch.stack([feature.tanh().mean() for feature in features]).sum().backward()
        optimizer.step()
    moved = [key for key, value in _frozen_state(model).items() if not torch.equal(value, before[key])]
    if moved:
        return f"of the frozen stages these moved: {moved[:4]}"
    apart = []
    for key, parameter in model.named_parameters():
        first = parameter.detach().clone()
        dist.broadcast(first, src=0)
        if not torch.equal(first, parameter):
            apart.append(key)
    return f"parameters differ between the processes: {apart[:4]}" if apart else ""


def _frozen_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and norm statistics of the frozen stages."""
    if not isinstance(model, Backbone):
        return {}
    frozen = model.stages()[: model.frozen_stages]
    return nn.ModuleList([module for _, modules in frozen for module in modules]).state_dict()


if __name__ == "__main__":
    _work(sys.argv[1], int(sys.argv[2]))
