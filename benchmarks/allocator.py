"""What keeping freed memory does to torchvision's backbone and to a few plain convolutions on the CPU.

    python benchmarks/allocator.py [--rounds 5] [--size 800 1344] [--forwards 3]

Each run is a process of its own, on one thread, with and without ``convbody.allocator.keep_freed_memory`` in
turn; after one forward pass without autograd, ``--forwards`` are counted: user and system time, and page
faults. Ratios are those of one round: above 1, keeping is quicker. Median, lower and upper quartile.
"""

from __future__ import annotations

import argparse

import measure

NETWORKS = {
    "resnet_fpn_backbone": (
        "from torchvision.models.detection.backbone_utils import resnet_fpn_backbone\n"
        "network = resnet_fpn_backbone(backbone_name='resnet50', weights=None)"
    ),
    "plain convolutions": (
        "network = torch.nn.Sequential(*(torch.nn.Conv2d(c, 32, 3, padding=1) for c in (3, 32, 32, 32)))"
    ),
}
PROGRAM = """
import json, resource, sys
height, width, forwards, keep = map(int, sys.argv[1:])
if keep:
    from convbody.allocator import keep_freed_memory
    assert keep_freed_memory(), "this malloc is not glibc's"
import torch
{network}
network.eval()
images = torch.rand(1, 3, height, width)
with torch.no_grad():
    network(images)
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(forwards):
        network(images)
after = resource.getrusage(resource.RUSAGE_SELF)
user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
faults, peak = after.ru_minflt - before.ru_minflt, after.ru_maxrss / 1024
print(json.dumps({{"seconds": (user + system) / forwards, "system": system / forwards,
                  "faults": faults / forwards, "peak": peak}}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind (5)")
    parser.add_argument("--size", nargs=2, default=("800", "1344"), metavar=("H", "W"), help="(800 1344)")
    parser.add_argument("--forwards", default="3", help="forward passes that count (3)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    args = parser.parse_args()
    print(measure.environment("torch", "torchvision"))
    print(f"1 x 3 x {args.size[0]} x {args.size[1]}, {args.forwards} forward passes")
    for network in args.networks:
        program = PROGRAM.format(network=NETWORKS[network])
        programs = {
            name: [program, *args.size, args.forwards, keep]
            for name, keep in (("as it comes", "0"), ("kept", "1"))
        }
        rounds = measure.in_turn(programs, args.rounds)
        print(network)
        for name in programs:
            for what, unit, digits in (
                ("seconds", "s a pass", 3),
                ("system", "s of them system time", 3),
                ("faults", "page faults", 0),
                ("peak", "MiB at most", 0),
            ):
                print(f"  {name:12} {measure.quartiles([t[name][what] for t in rounds], digits)} {unit}")
        ratios = [taken["as it comes"]["seconds"] / taken["kept"]["seconds"] for taken in rounds]
        print(f"  ratio {measure.quartiles(ratios)}")


if __name__ == "__main__":
    main()
