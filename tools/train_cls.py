#!/usr/bin/env python
"""Trains and evaluates a classifier: the first weights of a backbone.

    python tools/train_cls.py --config-file configs/classification/digits_R_20.yaml [KEY VALUE ...]
    python tools/train_cls.py --config-file ... --resume
    torchrun --standalone --nproc-per-node 4 tools/train_cls.py --config-file ...

Everything that the run writes goes into OUTPUT_DIR; body.pth there is a file for MODEL.WEIGHT of a detector.
"""

from __future__ import annotations

import convbody.starting  # noqa: F401 (first: it is for what comes after)
from convbody import cli


def main() -> int:
    parser = cli.common_parser(__doc__)
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="check all that can be, train nothing")
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate the best checkpoint or MODEL.WEIGHT, train nothing"
    )
    args = cli.parse(parser)
    cfg = cli.load_config(args)
    if args.eval_only:
        from convbody.classification.evaluation import evaluate_checkpoint

        evaluate_checkpoint(cfg)
    elif args.dry_run:
        from convbody.classification.preflight import dry_run

        dry_run(cfg, resume=args.resume)
    else:
        from convbody.classification.train import train_classifier

        return train_classifier(cfg, resume=args.resume).exit_status
    return 0


if __name__ == "__main__":
    cli.run(main)
