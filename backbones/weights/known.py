"""Contracts of published weights, by their address or by the names of their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import parse_qs

from torch import Tensor

from backbones.config import IMAGENET_MEAN, IMAGENET_STD
from backbones.weights.contract import WeightContract

#: MSRA's ResNets and all of Detectron's. Batch norm is folded into an affine map, and so is the pixels' std.
CAFFE2 = WeightContract(
    "BGR", 255, (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0), stride_in_1x1=True, norm_epsilon=0.0
)
CAFFE2_RESNEXT = replace(CAFFE2, stride_in_1x1=False)
CAFFE2_GN = replace(CAFFE2, stride_in_1x1=False, norm_epsilon=1e-5)
#: detectron2 converted the same networks, but kept the batch norms and their epsilon.
DETECTRON2 = replace(CAFFE2, mean=(103.53, 116.28, 123.675), norm_epsilon=1e-5)
DETECTRON2_RESNEXT = replace(DETECTRON2, std=(57.375, 57.12, 58.395), stride_in_1x1=False)
TORCHVISION = WeightContract(
    "RGB", 1, tuple(IMAGENET_MEAN), tuple(IMAGENET_STD), stride_in_1x1=False, norm_epsilon=1e-5
)
MOBILENET_V2 = replace(TORCHVISION, stride_in_1x1=None)
#: torchvision's first detectors, whose frozen batch norms have no epsilon.
TORCHVISION_V1 = replace(TORCHVISION, norm_epsilon=0.0)
_V1_DETECTORS = ("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet")


def known_contract(weight: str, state: Mapping[str, Tensor]) -> WeightContract | None:
    """The contract of what MODEL.WEIGHT names, or of its tensors; None where neither tells for sure."""
    scheme, separator, name = weight.partition("://")
    by_address = {
        "catalog": _of_catalog,
        "detectron2": _of_detectron2,
        "torchvision": _of_torchvision,
        "timm": _of_timm,
    }
    if separator and scheme in by_address:
        return by_address[scheme](name)
    return _of_tensors(state)


def _of_catalog(name: str) -> WeightContract:
    if name.endswith("-GN"):
        return CAFFE2_GN
    return CAFFE2_RESNEXT if "X-1" in name else CAFFE2


def _of_detectron2(name: str) -> WeightContract | None:
    model = name.removeprefix("ImageNetPretrained/")
    if model.startswith("torchvision/"):
        return TORCHVISION
    if model.startswith("MSRA/"):
        return DETECTRON2
    if "X-101-32x8d" in name or "X_101_32x8d_FPN" in name:
        return DETECTRON2_RESNEXT
    # Its first models, trained from the files above; later ones have conventions of their own.
    baseline = name.startswith(("COCO-Detection/", "COCO-InstanceSegmentation/", "COCO-Keypoints/"))
    return DETECTRON2 if baseline and ("_R_50_" in name or "_R_101_" in name) else None


def _of_torchvision(name: str) -> WeightContract | None:
    from torchvision.models import get_model_weights

    model, _, query = name.partition("?")
    if model.endswith("_resnet50_fpn"):
        weights = parse_qs(query).get("weights", ["DEFAULT"])[0]
        v1 = get_model_weights(model)[weights].name == "COCO_V1"
        return TORCHVISION_V1 if v1 and model.startswith(_V1_DETECTORS) else TORCHVISION
    if model == "mobilenet_v2":
        return MOBILENET_V2
    resnet = model.startswith(("resnet", "resnext", "wide_resnet")) or "_resnet50_fpn" in model
    return TORCHVISION if resnet else None


def _of_timm(name: str) -> WeightContract | None:
    from timm.models import get_pretrained_cfg

    source = get_pretrained_cfg(name)
    if source is None:
        return None
    resnet = name.startswith(("resnet", "resnext", "wide_resnet", "tresnet"))
    return WeightContract(
        "RGB",
        1,
        tuple(source.mean),
        tuple(source.std),
        stride_in_1x1=False if resnet else None,
        norm_epsilon=1e-5 if resnet else None,
    )


def _of_tensors(state: Mapping[str, Tensor]) -> WeightContract | None:
    if "conv1_w" in state:
        conv = state.get("res2_0_branch2b_w")
        grouped = conv is not None and conv.dim() == 4 and conv.shape[1] < conv.shape[0]
        if "conv1_gn_s" in state:
            return CAFFE2_GN
        return CAFFE2_RESNEXT if grouped else CAFFE2
    if {"features.1.conv.0.0.weight", "features.17.conv.1.0.weight", "features.18.0.weight"} <= state.keys():
        return MOBILENET_V2
    # A whole classifier in the names that torchvision chose. Its bodies alone may have come from elsewhere.
    classifier = {
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.conv1.weight",
        "layer4.0.bn2.weight",
        "fc.weight",
    }
    return TORCHVISION if classifier <= state.keys() else None
