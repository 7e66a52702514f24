#!/usr/bin/env python
"""Writes weights under the names of another code base: detectron2, torchvision, Caffe2 (Detectron), ...

    python tools/convert_weights.py output/checkpoints/last.pth mask_rcnn.pkl --to caffe2
    python tools/convert_weights.py model_final.pkl mask_rcnn.safetensors --to convbody

SOURCE is anything that MODEL.WEIGHT may name. TARGET ends in .pth, .safetensors or .pkl. Names that stand for
nothing here, such as an ImageNet classifier, are listed on stderr.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import convbody.starting  # noqa: F401 (first: it is for what comes after)
from backbones.weights.lineages import LINEAGES
from backbones.weights.read import read_weights
from backbones.weights.write import convert, write_tensors
from convbody import cli


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(lineage.name for lineage in LINEAGES)
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("target", metavar="TARGET", type=Path)
    parser.add_argument("--to", metavar="LINEAGE", required=True, help=f"whose names to write: {names}")
    parser.add_argument("--from", metavar="LINEAGE", dest="origin", help="whose names to read, if not clear")
    args = parser.parse_args()
    file = read_weights(args.source)
    converted = convert(file.tensors, args.to, args.origin)
    write_tensors(converted.state, args.target, args.to, file.contract, file.notes)
    print(f"{len(converted.state)} tensors from names of {converted.source} to {args.to}: {args.target}")
    for name in converted.left_out:
        print(f"left out: {name}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
