"""What bfloat16 costs in quality: the quickstart's detector trained in float32 and in bfloat16.

    python tools/prepare_data.py trees
    python benchmarks/bf16_quality.py [--seeds 3] [--widen] [--runs DIR] [KEY VALUE ...]

configs/quickstart/trees.yaml is trained and evaluated once in each type for every seed, in turn, and AP and
AP50 of the last evaluation are compared. Finished runs are not repeated, stopped ones go on. Without
instructions for bfloat16 a processor is several times slower in it than in float32: ``--widen`` computes
products of bfloat16 matrices in float32 and rounds them to bfloat16, which differs in the order of additions
alone. Everything else, autocast included, is as in training.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import record
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from convbody import cli
from convbody.detection.train import train_detector
from registry import load_cfg

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart" / "trees.yaml"
TYPES = ("float32", "bfloat16")
METRICS = {"bbox/AP": "AP", "bbox/AP50": "AP50"}
_aten = torch.ops.aten
PRODUCTS = {_aten.convolution, _aten.convolution_backward, _aten.mm, _aten.addmm, _aten.bmm}


class WideProducts(TorchDispatchMode):
    """While entered, products of bfloat16 matrices are computed in float32 and rounded afterwards."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket not in PRODUCTS or args[0].dtype != torch.bfloat16:
            return func(*args, **(kwargs or {}))
        wide = tree_map_only(Tensor, Tensor.float, (args, kwargs or {}))
        return tree_map_only(Tensor, Tensor.bfloat16, func(*wide[0], **wide[1]))


def metrics(folder: Path, dtype: str, seed: int, opts: Sequence[Any]) -> dict[str, float]:
    """Train and evaluate one detector in ``folder``."""
    found = train_detector(
        load_cfg(CONFIG, [*opts, "OUTPUT_DIR", str(folder), "SEED", seed, "DTYPE", dtype]), resume=True
    ).metrics
    return {short: found[name] for name, short in METRICS.items()}


def table(rounds: record.Rounds) -> str:
    """A row for each seed, and one for the means, with the difference of bfloat16 to float32."""
    titles = [f"{key}, float32 | {key}, bfloat16 | difference" for key in METRICS.values()]
    lines = [f"| seed | {' | '.join(titles)} |", f"| --- |{' ---: |' * 3 * len(METRICS)}"]

    def row(title: str, value: Callable[[str, str], float]) -> str:
        cells = [(value("float32", key), value("bfloat16", key)) for key in METRICS.values()]
        return f"| {title} | " + " | ".join(f"{a:.3f} | {b:.3f} | {b - a:+.3f}" for a, b in cells) + " |"

    for seed, taken in enumerate(rounds):
        lines.append(row(str(seed), lambda dtype, key, taken=taken: taken[dtype][key]))  # type: ignore[misc]
    mean = row("mean", lambda dtype, key: statistics.mean(taken[dtype][key] for taken in rounds))
    return "\n".join([*lines, mean, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="detectors of each type, two at least (3)")
    parser.add_argument("--widen", action="store_true", help="compute products in float32 and round them")
    parser.add_argument("--runs", type=Path, default=Path("runs/bf16_quality"), help="(runs/bf16_quality)")
    parser.add_argument("--output", type=Path, default=record.RESULTS, help="folder of the results")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to change")
    args = parser.parse_args()
    precision: AbstractContextManager[Any] = WideProducts() if args.widen else nullcontext()
    rounds = []
    for seed in range(args.seeds):
        with precision:
            rounds.append(
                {dtype: metrics(args.runs / dtype / str(seed), dtype, seed, args.opts) for dtype in TYPES}
            )
    text = table(rounds)
    plot = record.bars(rounds, "AP50", "AP50: median, lower and upper quartile of the seeds")
    record.save(args.output, "bf16_quality", text, rounds, plot, ["torch", "torchvision"])


if __name__ == "__main__":
    cli.run(main)
