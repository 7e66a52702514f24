"""Run a detector over a share of a test set and write down what it finds in COCO's results format."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor, to_dtype

from convbody.data.errors import DataError
from convbody.data.unread import Unread
from convbody.detection.data import CocoDataset
from convbody.detection.data.records import OriginalId
from convbody.detection.masks import EncodedMasks, encode, masks_of
from convbody.detection.model import Detector

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0
_PIXELS_AHEAD = 50_000_000  # of images loaded and waiting, 3 bytes each

Record = dict[str, Any]


def detect(
    model: nn.Module,
    dataset: CocoDataset,
    indices: Sequence[int],
    *,
    batch_size: int,
    dtype: torch.dtype = torch.float32,
    workers: int = 1,
    mask_threshold: float = 0.5,
    unread: Unread | None = None,
) -> dict[int, tuple[int, list[Record]]]:
    """Index -> (image id, COCO records) for each of ``indices``.

    Images that cannot be read are left out where ``unread`` is there to name them; otherwise the first one
    raises its DataError.

    The model is put in evaluation mode and back into the mode it came in. With a ``dtype`` below float32 it
    runs under autocast. ``workers`` threads load images ahead; no random state is touched.
    """
    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    found: dict[int, tuple[int, list[Record]]] = {}
    was_training = model.training
    model.eval()
    started = last_line = time.monotonic()
    ahead = _load_ahead(dataset, indices, workers)
    try:
        for batch in _batches(_readable(zip(indices, ahead, strict=True), unread), batch_size):
            images = [image.to(device) for _, image in batch]
            for (index, _), output in zip(batch, run_model(model, images, dtype), strict=True):
                image_id = dataset.images[index].id
                records = coco_records(output, image_id, dataset.label_to_category, mask_threshold)
                # A class that the data set does not have is not asked for.
                found[index] = (image_id, [each for each in records if each["category_id"] is not None])
            if time.monotonic() - last_line > _SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                rate = len(found) / (last_line - started)
                left = (len(indices) - len(found)) / rate
                log.info(
                    "evaluation: %d/%d images, %.1f images/s, %.0f s left",
                    len(found),
                    len(indices),
                    rate,
                    left,
                )
    finally:
        ahead.close()  # here, and not where it is collected, which may be one of its own threads
        model.train(was_training)
    return found


def run_model(model: nn.Module, images: list[Tensor], dtype: torch.dtype) -> list[dict[str, Any]]:
    """Detections of a batch (uint8, RGB), as float32 and integer tensors on the CPU, without a graph.

    Masks of our detectors come as BoxMasks, those of other models as they give them.

    (``no_grad`` and not ``inference_mode``: anchors and the like that the model caches now have to serve a
    training step later.)
    """
    detect: Callable[[list[Tensor]], list[dict[str, Any]]] = model
    if isinstance(model, Detector) and type(model).forward is Detector.forward:
        detect = model.detections
    else:
        images = [to_dtype(image, torch.float32, scale=True) for image in images]
    low = dtype != torch.float32
    with torch.no_grad(), torch.autocast(images[0].device.type, dtype if low else None, enabled=low):
        outputs = detect(images)
    return [{name: _on_cpu(value) for name, value in output.items()} for output in outputs]


def features_are_finite(model: nn.Module, dtype: torch.dtype) -> bool:
    """Whether the feature maps of a grey image are numbers: finite weights, too, may have grown too large."""
    if not isinstance(model, Detector):
        return True
    low, was_training = dtype != torch.float32, model.training
    device = next(model.parameters()).device
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, dtype if low else None, enabled=low):
            batch, _ = model.transform([torch.full((3, 64, 64), 0.5, device=device)])
            return all(bool(feature.isfinite().all()) for feature in model.backbone(batch.tensors))
    finally:
        model.train(was_training)


def _on_cpu(value: Any) -> Any:
    return (value.float() if isinstance(value, Tensor) and value.is_floating_point() else value).cpu()


def coco_records(
    output: Mapping[str, Any],
    image_id: int,
    label_to_category: Mapping[int, int],
    mask_threshold: float = 0.5,
) -> list[Record]:
    """One detector output (torchvision's convention) as COCO results.

    Boxes become x, y, width, height; masks, BoxMasks or a tensor (N, 1, H, W) in [0, 1], become run lengths
    of what is above ``mask_threshold``, one after the other; keypoints (N, K, 3) become 3 K numbers.
    Proposals, which have no "labels", are given the first category; a label that has none, None.
    """
    boxes = output["boxes"].tolist()
    labels = output["labels"].tolist() if "labels" in output else [min(label_to_category)] * len(boxes)
    records: list[Record] = []
    for (x1, y1, x2, y2), label, score in zip(boxes, labels, output["scores"].tolist(), strict=True):
        records.append(
            {
                "image_id": image_id,
                "category_id": label_to_category.get(label),
                "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(score, 6),
            }
        )
    if masks := masks_of(output):
        for index, record in enumerate(records):
            record["segmentation"] = encode(masks.part(index).above(mask_threshold), masks.size)
    if "keypoints" in output:
        for record, keypoints in zip(records, output["keypoints"], strict=True):
            record["keypoints"] = [round(value, 3) for value in keypoints.flatten().tolist()]
    return records


def output_of_records(records: Sequence[Record], labels: Mapping[OriginalId, int]) -> dict[str, Any]:
    """The inverse of ``coco_records``: the detector output that COCO results of one image were made from.

    ``labels`` are those of the category ids. Its masks are EncodedMasks.
    """
    boxes = torch.tensor([record["bbox"] for record in records], dtype=torch.float32).reshape(-1, 4)
    output: dict[str, Any] = {
        "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
        "labels": torch.tensor([labels[record["category_id"]] for record in records], dtype=torch.int64),
        "scores": torch.tensor([record["score"] for record in records], dtype=torch.float32),
    }
    if records and "segmentation" in records[0]:
        codes = [record["segmentation"] for record in records]
        output["masks"] = EncodedMasks(codes, tuple(codes[0]["size"]))
    if records and "keypoints" in records[0]:
        keypoints = [record["keypoints"] for record in records]
        output["keypoints"] = torch.tensor(keypoints, dtype=torch.float32).reshape(len(records), -1, 3)
    return output


def _readable(
    images: Iterable[tuple[int, Tensor | DataError]], unread: Unread | None
) -> Iterator[tuple[int, Tensor]]:
    for index, image in images:
        if not isinstance(image, DataError):
            yield index, image
        elif unread is not None:
            unread.add([image])
        else:
            raise image


def _load_ahead(
    dataset: CocoDataset, indices: Sequence[int], workers: int
) -> Generator[Tensor | DataError, None, None]:
    """The images, uint8, in order, or why they cannot be read; a few are loaded ahead by threads."""

    def load(index: int) -> Tensor | DataError:
        try:
            return pil_to_tensor(dataset.picture(index))
        except DataError as error:
            return error

    threads = max(1, workers)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Future[Tensor | DataError], int]] = deque()
        pixels = 0
        for index in indices:
            record = dataset.images[index]
            waiting.append((pool.submit(load, index), record.width * record.height))
            pixels += waiting[-1][1]
            while len(waiting) > 2 * threads or (len(waiting) > 1 and pixels > _PIXELS_AHEAD):
                future, size = waiting.popleft()
                pixels -= size
                yield future.result()
        while waiting:
            yield waiting.popleft()[0].result()


def _batches(samples: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
