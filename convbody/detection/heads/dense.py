"""What one-stage detectors share: a prediction at every anchor of every feature map."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from convbody.detection.heads.anchors import Anchors
from convbody.detection.heads.numerics import full_precision
from convbody.detection.heads.options import refuse_augmentation
from convbody.detection.inputs import Target
from convbody.detection.model import Detector
from registry import Config, ConfigError


class DenseDetector(Detector):
    """The frame of RetinaNet and FCOS. Labels count from 0 inside and from 1 outside: no background."""

    limit: int  # detections per image
    head: nn.Module
    anchor_generator: Anchors
    postprocess_detections: Callable[..., list[dict[str, Tensor]]]  # torchvision's, as is the next
    compute_loss: Callable[..., dict[str, Tensor]]

    def predict(self, features: list[Tensor]) -> dict[str, Tensor]:
        """The head's outputs, each (N, anchors, D), feature maps one after the other."""
        outputs = self.head(features)
        return {name: full_precision(output) for name, output in outputs.items()}

    def detect(self, images: ImageList, features: list[Tensor]) -> list[dict[str, Tensor]]:
        """Per image, the best detections after non-maximum suppression."""
        outputs = self.predict(features)
        anchors = self.anchor_generator(images, features)
        per_cell = self.anchor_generator.num_anchors_per_location()[0]
        counts = [feature.shape[2] * feature.shape[3] * per_cell for feature in features]
        results = self.postprocess_detections(
            {name: list(output.split(counts, dim=1)) for name, output in outputs.items()},
            [list(each.split(counts)) for each in anchors],
            images.image_sizes,
        )
        return [self._finish(result) for result in results]

    def _finish(self, result: dict[str, Tensor]) -> dict[str, Tensor]:
        """The best of one image. Boxes that lay in the padding, and were cut to nothing, take no place."""
        boxes = result["boxes"]
        seen = torch.where((boxes[:, 2:] > boxes[:, :2]).all(dim=1))[0][: self.limit]
        return {"boxes": boxes[seen], "scores": result["scores"][seen], "labels": result["labels"][seen] + 1}


def zero_based(targets: list[Target]) -> list[Target]:
    """The targets with labels from 0, as one-stage heads count classes."""
    return [{**target, "labels": target["labels"] - 1} for target in targets]


def refuse_region_heads(cfg: Config) -> None:
    """Raises ConfigError when what only a second stage gives is asked for: one-stage detectors have none."""
    refuse_augmentation(cfg)
    for key in ("MASK_ON", "KEYPOINT_ON"):
        if cfg.MODEL[key]:
            raise ConfigError("one-stage detectors have no such head; set it to False", f"MODEL.{key}", cfg)
