"""Seconds and memory to read and check a large COCO file, and what data workers add.

    python benchmarks/annotations.py [--images 100000] [--objects 10] [--points 20] [--masks] [--workers 4]

The file is drawn: 640x480 images with ``--objects`` annotations each, which have polygons of ``--points``
corners. It is read and checked in a process of its own on one core, images not opened, as training does with
DATASETS.CHECK_IMAGES "none"; with ``--masks`` the polygons are read and checked, too. Seconds are CPU time,
and memory is the process's peak, the bytes of the file included. Then ``--workers`` workers of a DataLoader
make the target of every image once. What they add is their proportional set size (PSS), in which memory that
several processes share counts once, less the same with a file of 10 images.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import measure
import msgspec
import numpy as np
from torch.utils.data import DataLoader, Dataset, get_worker_info

from convbody.detection.data import CocoDataset, read_dataset

WIDTH, HEIGHT, CLASSES = 640, 480, 80


def draw(file: Path, images: int, objects: int, points: int) -> None:
    """Write a COCO file of ``images`` times ``objects`` annotations with polygons of ``points`` corners."""
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
    with file.open("wb") as out:
        out.write(b'{"categories": ' + msgspec.json.encode(categories) + b', "images": [')
        for number in range(1, images + 1):
            name = f"{number:012d}.jpg"
            image = {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
            out.write((b"," if number > 1 else b"") + msgspec.json.encode(image))
        out.write(b'], "annotations": [')
        for number, text in enumerate(_annotations(images, objects, points)):
            out.write((b",\n" if number else b"") + text)
        out.write(b"]}")


def _annotations(images: int, objects: int, points: int) -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    circle = np.stack([1 + np.cos(angles), 1 + np.sin(angles)], axis=1) / 2
    for image in range(1, images + 1):
        sides = rng.uniform(4, 240, (objects, 1, 2))
        corners = rng.uniform(0, 1, (objects, 1, 2)) * ([WIDTH, HEIGHT] - sides)
        outlines = (corners + sides * circle).round(2).reshape(objects, -1)
        boxes = np.concatenate([corners, sides], axis=2).reshape(objects, 4).round(2)
        for place in range(objects):
            box = boxes[place].tolist()
            yield msgspec.json.encode(
                {
                    "id": (image - 1) * objects + place + 1,
                    "image_id": image,
                    "category_id": int(rng.integers(1, CLASSES + 1)),
                    "bbox": box,
                    "area": round(box[2] * box[3], 2),
                    "iscrowd": 0,
                    "segmentation": [outlines[place].tolist()],
                }
            )


class Targets(Dataset[float]):
    """The target of an image in the place of the image: gives the PSS of the process after the last."""

    def __init__(self, dataset: CocoDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> float:
        target = self.dataset.truth(index)
        assert len(target["labels"]) == len(target["boxes"])
        worker = get_worker_info()
        assert worker is not None
        return proportional() if index >= len(self) - worker.num_workers else 0.0


def proportional() -> float:
    """The proportional set size of this process in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def read(file: Path, masks: bool, workers: int) -> dict[str, float]:
    """Read and check ``file``: seconds, MB, and the MB of this process together with ``workers`` workers."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu, wall = time.process_time(), time.perf_counter()
    records, report = read_dataset(file, file.parent, how="none", masks=masks)
    numbers = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "before": before}
    assert report.ok, str(report)
    numbers["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    dataset = CocoDataset(file.parent, file, records=records, masks=masks)
    numbers["alone"] = proportional()
    loader = DataLoader(Targets(dataset), batch_size=1, num_workers=workers, collate_fn=sum)
    of_workers = own = 0.0
    for value in loader:  # all workers live until the last value is there
        if value:
            of_workers, own = of_workers + value, proportional()
    numbers["workers"] = of_workers + own
    return numbers


def in_process(file: Path, masks: bool, workers: int) -> dict[str, float]:
    """``read`` in a process of its own."""
    program = (
        "import json, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import annotations; "
        "print(json.dumps(annotations.read(Path(sys.argv[2]), sys.argv[3] == 'True', int(sys.argv[4]))))"
    )
    return measure.run_python(program, str(Path(__file__).parent), str(file), str(masks), str(workers))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000, help="images in the file (100000)")
    parser.add_argument("--objects", type=int, default=10, help="annotations of each (10)")
    parser.add_argument("--points", type=int, default=20, help="corners of each polygon (20)")
    parser.add_argument("--masks", action="store_true", help="read and check the polygons, too")
    parser.add_argument("--workers", type=int, default=4, help="data workers (4)")
    args = parser.parse_args()
    print(measure.environment("msgspec", "numpy", "torch"))
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder) / "large.json", Path(folder) / "small.json"
        draw(large, args.images, args.objects, args.points)
        draw(small, 10, args.objects, args.points)
        print(
            f"{args.images} images, {args.images * args.objects} objects, {large.stat().st_size / 1e6:.0f} MB"
        )
        found = in_process(large, args.masks, args.workers)
        idle = in_process(small, args.masks, args.workers)
    print(f"read and checked in {found['cpu']:.1f} s of CPU time ({found['wall']:.1f} s)")
    print(f"peak {found['peak']:.0f} MB, of which {found['before']:.0f} before the file was read")
    kept = found["alone"] - idle["alone"]
    added = (found["workers"] - found["alone"]) - (idle["workers"] - idle["alone"])
    print(f"kept in memory: {kept:.0f} MB; {args.workers} workers add {added:.0f} MB to it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
