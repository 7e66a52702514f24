#!/usr/bin/env python
"""Detects objects in images: a drawing and a JSON file for each.

    python tools/predict.py --config-file runs/trees/config.yaml photo.jpg 'more/*.png' folder [KEY VALUE ...]

The weights are those of --weights, of MODEL.WEIGHT on the command line, or the best checkpoint in OUTPUT_DIR;
where that has none, of MODEL.WEIGHT in the config file. Exit status 1: an image could not be read.
"""

from __future__ import annotations

import argparse

import convbody.starting  # noqa: F401 (first: it is for what comes after)
from convbody import cli


def parser() -> argparse.ArgumentParser:
    top = cli.common_parser(__doc__, before="IMAGE")
    top.add_argument("--weights", metavar="FILE", help="weights of the whole detector")
    top.add_argument(
        "--output", default="predictions", metavar="DIR", help="folder for what is found (predictions)"
    )
    top.add_argument("--score", type=float, default=0.5, help="least score of a detection to show (0.5)")
    top.add_argument("--json", action="store_true", help="print JSON, one line per image")
    return top


def main() -> int:
    args = cli.parse(parser())
    images, args.opts = cli.split_opts(args.opts)
    cfg = cli.load_config(args)
    from convbody.detection.predict import predict

    return predict(
        cfg,
        images,
        weights=args.weights,
        output_dir=args.output,
        score_threshold=args.score,
        as_json=args.json,
    )


if __name__ == "__main__":
    cli.run(main)
