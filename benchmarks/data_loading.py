"""Images a second on one core: our training pipeline, and a plain one of Pillow and a padded batch.

    python benchmarks/data_loading.py [--images 16] [--size 480 640] [--batches 8] [--rounds 5]

Both read the same drawn JPEG files, resize them to a short side of 800 (bilinear, antialiased), mirror half
of them and make float32 batches in this process, on one thread. Ours is ``build_train_batches`` without
workers: it checks sizes, carries boxes along and draws from a seed for each image. The plain one resizes and
mirrors with Pillow, turns pixels into floats with numpy, and pads images to one size. Seconds are CPU time;
ratios are those of one round. Median, lower and upper quartile. Each step of ours is timed by itself, too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import measure
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from convbody.data.images import read_rgb
from convbody.detection.data import build_train_batches
from convbody.detection.transform import resized_size
from registry import load_cfg

BATCH, SHORT, LONG = 2, 800, 1333


def draw_data_set(folder: Path, images: int, height: int, width: int) -> Path:
    """JPEG files of coarse and fine noise, each with one object; gives the annotation file."""
    rng = np.random.default_rng(0)
    for number in range(1, images + 1):
        coarse = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        smooth = np.asarray(
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16
        )
        pixels = (smooth + rng.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)
    numbers = range(1, images + 1)
    data = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": height, "width": width} for n in numbers],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [9, 9, 40, 30], "area": 1200, "iscrowd": 0}
            for n in numbers
        ],
    }
    file = folder / "annotations.json"
    file.write_text(json.dumps(data))
    return file


def our_batches(annotations: Path) -> Iterator[list[Tensor]]:
    """Images of the batches that training takes."""
    cfg = load_cfg(None, ["DATASETS.TRAIN", ("drawn",), "DATALOADER.NUM_WORKERS", 0, "MODEL.DEVICE", "cpu"])
    cfg.SOLVER.IMS_PER_BATCH = BATCH
    cfg.DATASETS.CATALOG["drawn"] = {"image_dir": str(annotations.parent), "ann_file": str(annotations)}
    for images, _ in build_train_batches(cfg)(0):
        yield images


def plain_batches(annotations: Path) -> Iterator[Tensor]:
    """(BATCH, 3, H, W) of images padded with zeros."""
    rng = np.random.default_rng(0)
    files = cycle(sorted(annotations.parent.glob("*.jpg")))
    while True:
        images = []
        for _ in range(BATCH):
            picture = Image.open(next(files)).convert("RGB")
            height, width = resized_size(picture.height, picture.width, SHORT, LONG)
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
            if rng.random() < 0.5:
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            pixels = np.asarray(picture, np.float32).transpose(2, 0, 1) / 255
            images.append(torch.from_numpy(np.ascontiguousarray(pixels)))
        batch = torch.zeros(BATCH, 3, *(max(image.shape[side] for image in images) for side in (1, 2)))
        for padded, image in zip(batch, images, strict=True):
            padded[:, : image.shape[1], : image.shape[2]] = image
        yield batch


def seconds(call: Callable[[], object]) -> float:
    """CPU time of a call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def print_steps(file: Path, repeat: int) -> None:
    """Milliseconds of each step of ours for one image."""
    picture = read_rgb(file)
    pixels = functional.pil_to_tensor(picture)
    size = list(resized_size(picture.height, picture.width, SHORT, LONG))
    resized = functional.resize(pixels, size, antialias=True)
    steps: dict[str, Callable[[], object]] = {
        "decode": lambda: read_rgb(file),
        "to tensor": lambda: functional.pil_to_tensor(picture),
        "resize": lambda: functional.resize(pixels, size, antialias=True),
        "mirror": lambda: functional.horizontal_flip(resized),
        "to float": lambda: functional.to_dtype(resized, torch.float32, scale=True),
    }
    for name, step in steps.items():
        times = [1000 * seconds(step) for _ in range(repeat)]
        print(f"  {name:10} {measure.quartiles(times)} ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=16, help="files to read (16)")
    parser.add_argument("--size", nargs=2, type=int, default=(480, 640), metavar=("H", "W"), help="(480 640)")
    parser.add_argument("--batches", type=int, default=8, help="batches of two in a round (8)")
    parser.add_argument("--rounds", type=int, default=5, help="(5)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(measure.environment("torch", "torchvision", "pillow"))
    with tempfile.TemporaryDirectory() as folder:
        annotations = draw_data_set(Path(folder), args.images, *args.size)
        streams = {"ours": our_batches(annotations), "plain": plain_batches(annotations)}

        def take(name: str) -> float:
            return seconds(lambda: [next(streams[name]) for _ in range(args.batches)])

        for stream in streams.values():
            next(stream)
        rounds = [{name: take(name) for name in streams} for _ in range(args.rounds)]
        for name in streams:
            rates = [args.batches * BATCH / taken[name] for taken in rounds]
            print(f"{name:6} {measure.quartiles(rates, 1)} images/s a core")
        print(f"ratio  {measure.quartiles([taken['plain'] / taken['ours'] for taken in rounds])}")
        print_steps(Path(folder) / "1.jpg", 4 * args.rounds)


if __name__ == "__main__":
    main()
