"""``build_detector(cfg)``, and the frame that every detector fills in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from backbones import Backbone, build_backbone
from backbones.layers.quick_conv import quicken
from convbody.detection.heads.registries import META_ARCHITECTURES
from convbody.detection.inputs import Target, TargetNeeds, check_images, check_targets
from convbody.detection.masks import BoxMasks
from convbody.detection.no_effect import report_keys_without_effect
from convbody.detection.transform import DetectionTransform
from registry import Config, ConfigError, lookup


class Detector(nn.Module):
    """A detector: images in, losses (in training) or detections out, as torchvision's detectors.

    A subclass has ``transform``, ``backbone`` and ``needs``, and defines ``losses`` and ``detect``.
    """

    transform: DetectionTransform
    backbone: Backbone
    needs: TargetNeeds

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> Any:
        """Losses or detections of a batch.

        Args:
            images: (3, H, W) each, RGB, floats in [0, 1] or uint8; sizes may differ.
            targets: in training, per image boxes float (N, 4) xyxy in pixels and labels int64 (N,) from 1;
                for the heads that need them, masks uint8 (N, H, W), keypoints float (N, K, 3). N may be 0.

        Returns:
            In training a dict of scalar losses. Otherwise, per image, a dict, best detection first: boxes
            (D, 4) xyxy in pixels of the image given, labels int64 (D,) from 1, scores (D,) in [0, 1]; with a
            mask head masks (D, 1, H, W), probabilities, 4 D H W bytes (``detections`` spares them); with a
            keypoint head keypoints (D, K, 3) and keypoints_scores (D, K).

        Raises:
            InputError: an image or a target that cannot be used; says which one of the batch.
        """
        if not self.training:
            return [_with_pasted_masks(found) for found in self.detections(images)]
        check_images(images, next(self.parameters()).dtype)
        check_targets(images, targets, self.needs)
        batch, resized_targets = self.transform(images, targets)
        return self.losses(batch, self.backbone(batch.tensors), resized_targets)

    def detections(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        """What a detector in evaluation mode gives, but for the masks: ``convbody.detection.masks.BoxMasks``.

        They take a few kilobytes each, and are pasted into the image when one is asked for.
        """
        check_images(images, next(self.parameters()).dtype)
        batch, _ = self.transform(images)
        features = self.backbone(batch.tensors)
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        return self.transform.postprocess(self.detect(batch, features), batch.image_sizes, sizes)

    def losses(self, images: ImageList, features: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """The training losses. Their sum gives every parameter that trains a gradient, whatever the batch."""
        raise NotImplementedError

    def detect(self, images: ImageList, features: list[Tensor]) -> list[dict[str, Tensor]]:
        """Per image, detections in pixels of the batch."""
        raise NotImplementedError


def _with_pasted_masks(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value.pasted() if isinstance(value, BoxMasks) else value for name, value in found.items()}


def build_detector(cfg: Config) -> Detector:
    """The detector that ``cfg`` describes, randomly initialised, in training mode.

    Raises:
        ConfigError: keys that contradict each other or the backbone.
        UnknownNameError: a name that is in no registry.
    """
    report_keys_without_effect(cfg)
    if cfg.MODEL.RETINANET_ON and cfg.MODEL.META_ARCHITECTURE == "FCOS":
        raise ConfigError("choose FCOS or MODEL.RETINANET_ON, not both", "MODEL.META_ARCHITECTURE", cfg)
    if cfg.MODEL.RETINANET_ON:
        architecture = META_ARCHITECTURES["RetinaNet"]
    else:
        architecture = lookup(META_ARCHITECTURES, cfg, "MODEL.META_ARCHITECTURE")
    backbone = build_backbone(cfg)
    widths = [info.channels for info in backbone.feature_info]
    if len(set(widths)) > 1:
        raise ConfigError(
            f"heads need feature maps of equal width, not {widths}; choose a body with a neck, such as -FPN",
            "MODEL.BACKBONE.CONV_BODY",
            cfg,
        )
    detector: Detector = architecture(cfg, backbone)
    for name, part in detector.named_children():
        if name != "backbone":
            quicken(part, reorders=True)
    return detector
