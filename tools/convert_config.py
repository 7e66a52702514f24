#!/usr/bin/env python
"""Converts a detectron2 config (ResNet bodies; R-CNN, RPN and RetinaNet detectors) into one of this project.

    python tools/convert_config.py mask_rcnn_R_50_FPN_1x.yaml > converted.yaml
    python tools/convert_config.py mask_rcnn_R_50_FPN_1x.yaml --output converted.yaml

What has no equivalent is listed on stderr, a line for each key.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import convbody.starting  # noqa: F401 (first: it is for what comes after)
from convbody import cli
from convbody.detection.convert import convert_detectron2
from registry import ConvbodyError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", metavar="YAML", help="a detectron2 config file; its _BASE_ files are read")
    parser.add_argument("--output", metavar="FILE", type=Path, help="where to write; without it, to stdout")
    args = parser.parse_args()
    conversion = convert_detectron2(args.config)
    text = f"# Converted from detectron2's {Path(args.config).name}\n{conversion.to_yaml()}"
    if args.output is None:
        sys.stdout.write(text)
    else:
        try:
            args.output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConvbodyError(f"cannot write {args.output}: {error.strerror}") from error
    for line in conversion.without_equivalent:
        print(f"no equivalent: {line}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
