#!/usr/bin/env python
"""Evaluates a trained detector on each of DATASETS.TEST; metrics and detections go to OUTPUT_DIR/evaluation.

    python tools/test_net.py --config-file runs/trees/config.yaml [KEY VALUE ...]
    torchrun --standalone --nproc-per-node 4 tools/test_net.py --config-file ... --weights detector.pth

The weights are those of --weights, of MODEL.WEIGHT on the command line, or the best checkpoint in OUTPUT_DIR;
where that has none, of MODEL.WEIGHT in the config file.
"""

from __future__ import annotations

import convbody.starting  # noqa: F401 (first: it is for what comes after)
from convbody import cli


def main() -> None:
    parser = cli.common_parser(__doc__)
    parser.add_argument("--weights", metavar="FILE", help="weights of the whole detector")
    args = cli.parse(parser)
    cfg = cli.load_config(args)
    from convbody.detection.evaluation import evaluate_checkpoint

    evaluate_checkpoint(cfg, args.weights)


if __name__ == "__main__":
    cli.run(main)
