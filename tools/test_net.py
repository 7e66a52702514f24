#!/usr/bin/env python
"""Evaluates a trained detector on each of DATASETS.TEST; metrics and detections go to OUTPUT_DIR/evaluation.

    python tools/test_net.py --config-file runs/trees/config.yaml [KEY VALUE ...]
    torchrun --nproc-per-node 4 tools/test_net.py --config-file ... --weights detector.pth

Without --weights, the best checkpoint in OUTPUT_DIR is used.
"""

from __future__ import annotations

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
