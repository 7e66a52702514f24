"""COCO's names, for published files that tell how many classes they know, but not which."""

from __future__ import annotations

from convbody.data.classes import ClassNames
from convbody.training.class_rows import CLASSES, KEYPOINTS


def assumed_names(of: str, count: int, lineage: str) -> ClassNames | None:
    """What the ``count`` classes or keypoints in a file of another code base are called; None: not known.

    COCO has 80 classes, or 90 labels where they are the category ids, and 17 keypoints.
    """
    if lineage == "convbody":
        return None
    from torchvision.models.detection import KeypointRCNN_ResNet50_FPN_Weights, MaskRCNN_ResNet50_FPN_Weights

    labels = [
        None if name == "N/A" else str(name)
        for name in MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]
    ]
    classes = [name for name in labels if name is not None]
    keypoints = list(KeypointRCNN_ResNet50_FPN_Weights.COCO_V1.meta["keypoint_names"])
    known: dict[tuple[str, int], ClassNames] = {
        (CLASSES, len(labels)): labels,
        (CLASSES, len(classes)): classes,
    }
    known[KEYPOINTS, len(keypoints)] = keypoints
    names = known.get((of, count))
    return None if names is None else tuple(names)
