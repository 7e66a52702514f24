#!/usr/bin/env python
"""Trains and evaluates a detector.

    python tools/train_net.py --config-file configs/quickstart/trees.yaml [KEY VALUE ...]
    python tools/train_net.py --config-file ... --resume
    torchrun --standalone --nproc-per-node 4 tools/train_net.py --config-file ...

Everything that the run writes goes into OUTPUT_DIR.
"""

from __future__ import annotations

import convbody.starting  # noqa: F401 (first: it is for what comes after)
from convbody import cli


def main() -> int:
    parser = cli.common_parser(__doc__)
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="check all that can be, train nothing")
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate as tools/test_net.py does, train nothing"
    )
    args = cli.parse(parser)
    cfg = cli.load_config(args)
    if args.eval_only:
        from convbody.detection.evaluation import evaluate_checkpoint

        evaluate_checkpoint(cfg)
    elif args.dry_run:
        from convbody.detection.preflight import dry_run

        dry_run(cfg, resume=args.resume)
    else:
        from convbody.detection.train import train_detector

        return train_detector(cfg, resume=args.resume).exit_status
    return 0


if __name__ == "__main__":
    cli.run(main)
