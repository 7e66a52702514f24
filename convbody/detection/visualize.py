"""Draw detections and ground truth on images."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from convbody.detection.lettering import label
from convbody.detection.masks import Masks, Part, masks_of

Colour = tuple[int, int, int]

# Apart from each other in hue and lightness, and from foliage, skin, asphalt and sky.
_PALETTE: tuple[Colour, ...] = (
    (255, 82, 82), (64, 156, 255), (255, 205, 41), (186, 104, 255), (0, 214, 180), (255, 138, 36),
    (255, 105, 200), (140, 230, 60), (0, 200, 255), (200, 160, 110), (120, 120, 255), (220, 220, 220),
)  # fmt: skip
_SMALLEST_SIDE = 400  # pixels: a smaller image is enlarged, so that its labels can be read
_LONGEST_ENLARGED = 4000  # pixels: but no further, should it be a strip
_MASK_OPACITY = 0.42


def class_colour(label: int) -> Colour:
    """The colour of class ``label`` (from 1): the same in every image, different from its neighbours'."""
    if 1 <= label <= len(_PALETTE):
        return _PALETTE[label - 1]
    hue = (label * 0.61803398875) % 1.0  # golden-ratio steps never come close to one another soon
    value = 1.0 if label % 2 else 0.78
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.72, value)
    return int(red * 255), int(green * 255), int(blue * 255)


def draw_detections(
    image: Tensor | Image.Image,
    output: Mapping[str, Any],
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.5,
    mask_threshold: float = 0.5,
    smallest_side: int = _SMALLEST_SIDE,
) -> Image.Image:
    """The image with boxes, labels and, where the output has them, masks and keypoints.

    Args:
        image: (3, H, W) RGB, float in [0, 1] or uint8, or a PIL image.
        output: torchvision's convention: "boxes" (N, 4) xyxy in pixels of ``image``; "labels" (N,) from 1;
            "scores" (N,), without which all are drawn and no score is written; "masks" in [0, 1], a tensor
            (N, 1, H, W) or (N, H, W), or Masks; "keypoints" (N, K, 3) with a visibility of 0 for those not to
            draw.
        class_names: name of label 1 first; a label beyond them is written as a number.
        score_threshold: the score from which on a detection is drawn.
        mask_threshold: the value above which a pixel belongs to the object.
        smallest_side: pixels; an image with a shorter side is enlarged to have this one, as long as the other
            stays below 4,000.

    Lines and letters grow with the image; ``convbody.detection.lettering`` says which letters there are. A
    label that would cover one of a higher score is left out; where there is one class only, its name is not
    repeated on every box.
    """
    canvas = _to_pil(image)
    scale = max(1.0, min(smallest_side / max(1, min(canvas.size)), _LONGEST_ENLARGED / max(canvas.size)))
    if scale > 1:
        canvas = canvas.resize(
            (round(canvas.width * scale), round(canvas.height * scale)), Image.Resampling.BICUBIC
        )
    keep = _shown(output, score_threshold)
    labels = output["labels"][keep].tolist() if "labels" in output else [1] * len(keep)
    colours = [class_colour(label) for label in labels]
    boxes = (output["boxes"][keep].float() * scale).tolist()
    line = max(1.5, 0.0028 * sum(canvas.size) / 2)

    if masks := masks_of(output):
        canvas = _paint_masks(canvas, masks.take(keep), colours, mask_threshold, line)
    draw = ImageDraw.Draw(canvas)
    for box, colour in reversed(list(zip(boxes, colours, strict=True))):  # the best on top
        _rectangle(draw, box, colour, line)
    if "keypoints" in output:
        for points, colour in zip(output["keypoints"][keep].float().tolist(), colours, strict=True):
            for x, y, visibility in points:
                if visibility > 0:
                    _dot(draw, x * scale, y * scale, colour, 2.2 * line)
    names = [_class_name(label, class_names) if len(class_names) != 1 else "" for label in labels]
    scores = (
        [f"{score:.2f}" for score in output["scores"][keep].tolist()]
        if "scores" in output
        else [""] * len(names)
    )
    _write_labels(draw, canvas.size, boxes, list(zip(names, scores, strict=True)), colours, line)
    return canvas


def draw_targets(
    image: Tensor | Image.Image,
    target: Mapping[str, Any],
    class_names: Sequence[str],
    *,
    smallest_side: int = _SMALLEST_SIDE,
) -> Image.Image:
    """The image with its ground truth: ``draw_detections`` of all objects of ``target``, without scores."""
    drawn = {name: target[name] for name in ("boxes", "labels", "masks", "keypoints") if name in target}
    return draw_detections(image, drawn, class_names, smallest_side=smallest_side)


def _to_pil(image: Tensor | Image.Image) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if image.is_floating_point():
        image = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def _shown(output: Mapping[str, Tensor], score_threshold: float) -> Tensor:
    """Indices of what is drawn, highest score first."""
    if "scores" not in output:
        return torch.arange(len(output["boxes"]))
    order = output["scores"].argsort(descending=True, stable=True)
    return order[output["scores"][order] >= score_threshold]


def _class_name(label: int, class_names: Sequence[str]) -> str:
    return class_names[label - 1] if 1 <= label <= len(class_names) else f"class {label}"


def _paint_masks(
    canvas: Image.Image, masks: Masks, colours: Sequence[Colour], threshold: float, line: float
) -> Image.Image:
    """Tint each mask in its colour, and trace its edge, so that touching objects of a class stay apart."""
    pixels = np.asarray(canvas).astype(np.float32)
    reach = 2 * max(1, round(line / 3)) + 1
    for index, colour in reversed(list(enumerate(colours))):
        top, left, inside = _at_size(masks.part(index), masks.size, (canvas.height, canvas.width)).above(
            threshold
        )
        if not inside.numel():
            continue
        # Beside the rectangle the mask has nothing; beyond the image's border nobody knows.
        height, width = inside.shape
        frame = [
            min(reach // 2, room)
            for room in (left, canvas.width - left - width, top, canvas.height - top - height)
        ]
        around = F.pad(inside[None, None].float(), frame)
        core = 1 - F.max_pool2d(1 - around, reach, stride=1, padding=reach // 2)
        edge = (around - core).bool()[0, 0, frame[2] : frame[2] + height, frame[0] : frame[0] + width]
        tint = np.array(colour, dtype=np.float32)
        seen = pixels[top : top + height, left : left + width]
        seen[inside.numpy()] = (1 - _MASK_OPACITY) * seen[inside.numpy()] + _MASK_OPACITY * tint
        seen[edge.numpy()] = tint
    return Image.fromarray(pixels.round().astype(np.uint8))


def _at_size(part: Part, size: tuple[int, int], wanted: tuple[int, int]) -> Part:
    """A mask of an image of ``size`` (H, W) in the image enlarged to ``wanted``."""
    if size == wanted:
        return part
    whole = part.pasted(size)[None, None].float()
    return Part(0, 0, F.interpolate(whole, size=wanted, mode="bilinear", align_corners=False)[0, 0])


def _rectangle(draw: ImageDraw.ImageDraw, box: Sequence[float], colour: Colour, line: float) -> None:
    """A coloured frame with a hair line of dark around it, seen on light and dark ground alike."""
    x1, y1, x2, y2 = box
    if x2 < x1 or y2 < y1:
        return
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(20, 20, 20))
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=max(1, round(line)))


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, colour: Colour, radius: float) -> None:
    box = (x - radius, y - radius, x + radius, y + radius)
    draw.ellipse(box, fill=colour, outline=(255, 255, 255), width=max(1, round(radius / 3)))


def _write_labels(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    boxes: Sequence[Sequence[float]],
    texts: Sequence[tuple[str, str]],
    colours: Sequence[Colour],
    line: float,
) -> None:
    """Each label on a plate over its box's upper left corner, or inside it at the image's upper edge."""
    letters, pad = max(11.0, 5.5 * line), max(1.0, line)
    placed: list[tuple[float, float, float, float]] = []
    for (x1, y1, _, _), (name, score), colour in zip(boxes, texts, colours, strict=True):
        text, font = label(name, score, letters, size[0] - 2 * pad)
        _, top, _, bottom = font.getbbox("Ag0")
        width, height = draw.textlength(text, font=font) + 2 * pad, bottom - top + 2 * pad
        left = min(max(0.0, x1), max(0.0, size[0] - width))
        upper = y1 - height if y1 >= height else max(0.0, y1)
        plate = (left, upper, left + width, upper + height)
        if not text or any(_overlap(plate, other) for other in placed):
            continue
        placed.append(plate)
        draw.rectangle(plate, fill=colour)
        ink = (0, 0, 0) if _luminance(colour) > 110 else (255, 255, 255)
        draw.text((left + pad, upper + height / 2), text, font=font, fill=ink, anchor="lm")


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _luminance(colour: Colour) -> float:
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue
