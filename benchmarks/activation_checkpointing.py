"""What recomputing stages, or cheap maps, saves and costs: bytes kept for the backward pass, and CPU time.

    python benchmarks/activation_checkpointing.py [CONV_BODY] [--size 224] [--batch 2] [--repeat 7]

Bytes are those of distinct memory that autograd keeps, without parameters and buffers: when the forward pass
ends, and at most, since in the backward pass a block's own activations come back for a moment. A step is
forward, backward and SGD; CPU time is of this process on one thread, the settings taken in turn; the median
is printed, and that of the ratio to the step that keeps everything in the same round.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from backbones import build_backbone
from registry import load_cfg

KEY = "MODEL.BACKBONE.CHECKPOINT_STAGES"


def network(conv_body: str, frozen: int, stages: Sequence[str], cheap: bool = False) -> nn.Module:
    """The backbone for training, the named stages recomputed, or ``cheap`` maps (MODEL.RECOMPUTE)."""
    options = ["MODEL.BACKBONE.CONV_BODY", conv_body, "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", frozen]
    options += ["MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 256, KEY, tuple(stages)]
    options += ["MODEL.RECOMPUTE", "cheap" if cheap else "none"]
    return build_backbone(load_cfg(None, options)).train()


class KeptBytes:
    """While entered, counts the bytes that autograd keeps: at the end of forward, and at most."""

    def __init__(self, model: nn.Module) -> None:
        self._own = {t.untyped_storage().data_ptr() for t in chain(model.parameters(), model.buffers())}
        self._users: dict[int, int] = {}
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> _Kept:
        """Counts ``tensor`` until autograd lets go of what is returned."""
        return _Kept(self, tensor)

    def add(self, tensor: Tensor, change: int) -> None:
        """One more or one less user of the tensor's memory."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self._own:
            return
        before = self._users.get(storage.data_ptr(), 0)
        self._users[storage.data_ptr()] = before + change
        if 0 in (before, before + change):
            self.now += change * storage.nbytes()
            self.most = max(self.most, self.now)


class _Kept:
    def __init__(self, count: KeptBytes, tensor: Tensor) -> None:
        self.count, self.tensor = count, tensor
        count.add(tensor, 1)

    def __del__(self) -> None:
        self.count.add(self.tensor, -1)


def kept_bytes(model: nn.Module, images: Tensor) -> tuple[int, int]:
    """Bytes kept when the forward pass ends, and the most at any time of the step."""
    count = KeptBytes(model)
    with torch.autograd.graph.saved_tensors_hooks(count.pack, lambda kept: kept.tensor):
        loss = _loss(model, images)
        at_end = count.now
        loss.backward()
    return at_end, count.most


def cpu_seconds(model: nn.Module, images: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """CPU time of one training step."""
    started = time.process_time()
    optimizer.zero_grad()
    _loss(model, images).backward()
    optimizer.step()
    return time.process_time() - started


def _loss(model: nn.Module, images: Tensor) -> Tensor:
    return torch.stack([feature.square().mean() for feature in model(images)]).sum()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("conv_body", nargs="?", default="R-50-FPN", metavar="CONV_BODY")
    parser.add_argument("--size", type=int, default=224, help="side of the images (224)")
    parser.add_argument("--batch", type=int, default=2, help="images in a batch (2)")
    parser.add_argument("--frozen", type=int, default=2, help="frozen stages (2)")
    parser.add_argument("--repeat", type=int, default=7, help="rounds of steps (7)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.rand(args.batch, 3, args.size, args.size)
    names = [name for name, _ in network(args.conv_body, 0, ()).stages()][args.frozen :]  # type: ignore[operator]
    settings = {"none": (), "cheap": (), **{name: (name,) for name in names}, "all": ("all",)}
    models = {
        label: network(args.conv_body, args.frozen, stages, cheap=label == "cheap")
        for label, stages in settings.items()
    }
    optimizers = {label: torch.optim.SGD(model.parameters(), lr=1e-4) for label, model in models.items()}
    kept = {label: kept_bytes(model, images) for label, model in models.items()}
    for label, model in models.items():
        cpu_seconds(model, images, optimizers[label])
    rounds = [
        {label: cpu_seconds(model, images, optimizers[label]) for label, model in models.items()}
        for _ in range(args.repeat)
    ]
    print(f"torch {torch.__version__}, {platform.machine()}, 1 thread, {args.conv_body}")
    print(f"images {tuple(images.shape)}, {args.frozen} stages frozen, {args.repeat} rounds")
    print("| recomputed | kept, MiB | at most, MiB | CPU s of a step | times none |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for label in settings:
        end, most = (count / 2**20 for count in kept[label])
        seconds = statistics.median(times[label] for times in rounds)
        ratio = statistics.median(times[label] / times["none"] for times in rounds)
        print(f"| {label} | {end:.1f} | {most:.1f} | {seconds:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
