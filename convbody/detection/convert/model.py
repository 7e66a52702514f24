"""The detector: what detectron2 says of body, anchors, heads and weights with several keys."""

from __future__ import annotations

from backbones.weights.catalog import URLS
from backbones.weights.source import SCHEMES
from convbody.detection.convert.settings import Settings, Values
from registry import ConfigError

_NORM_WORDS = {"FrozenBN": "FixedBatchNorm", "BN": "BatchNorm", "SyncBN": "SyncBN", "GN": "GN"}


def architecture(settings: Settings) -> Values:
    """META_ARCHITECTURE and what follows from it."""
    kinds: dict[str, Values] = {
        "GeneralizedRCNN": {},
        "ProposalNetwork": {"MODEL.RPN_ONLY": True},
        # detectron2 does not divide the box loss, and P6 is made from the body's last stage.
        "RetinaNet": {"MODEL.RETINANET_ON": True, "MODEL.RETINANET.BBOX_REG_WEIGHT": 1.0},
    }
    return dict(settings.choose("MODEL.META_ARCHITECTURE", kinds))


def body(settings: Settings) -> Values:
    """CONV_BODY, its norm, and the width of the pyramid."""
    word = settings.choose("MODEL.RESNETS.NORM", _NORM_WORDS)
    values: Values = {
        "MODEL.BACKBONE.CONV_BODY": f"R-{settings['MODEL.RESNETS.DEPTH']}-{settings.neck}",
        "MODEL.RESNETS.STEM_FUNC": f"StemWith{word}",
        "MODEL.RESNETS.TRANS_FUNC": f"BottleneckWith{word}",
    }
    if word == "FixedBatchNorm":
        values["MODEL.FROZEN_BN.EPSILON"] = 1e-5
    if settings.neck.startswith("FPN"):
        values["MODEL.RESNETS.BACKBONE_OUT_CHANNELS"] = settings["MODEL.FPN.OUT_CHANNELS"]
    _expect_features(settings)
    return values


def _expect_features(settings: Settings) -> None:
    """Notes the lists of features that say other than what body and neck give."""
    single = {"C4": ["res4"], "C5": ["res5"]}.get(settings.neck)
    pyramid = [f"res{level}" for level in range(3 if settings.neck == "FPN-RETINANET" else 2, 6)]
    outputs = [f"p{level}" for level in (range(3, 8) if settings.neck == "FPN-RETINANET" else range(2, 7))]
    expected = {"MODEL.RESNETS.OUT_FEATURES": single or pyramid}
    if single is None:
        expected["MODEL.FPN.IN_FEATURES"] = pyramid
    if settings.one_stage:
        expected["MODEL.RETINANET.IN_FEATURES"] = single or outputs
    else:
        expected["MODEL.RPN.IN_FEATURES"] = single or outputs
        if settings.two_stage:
            expected["MODEL.ROI_HEADS.IN_FEATURES"] = single or outputs[:4]
    for key, features in expected.items():
        if list(settings[key]) != features:
            settings.note(key, f"here {', '.join(features)}")


def anchors(settings: Settings) -> Values:
    """Places, sizes, ratios and overlaps of the anchors."""
    section = "MODEL.RETINANET" if settings.one_stage else "MODEL.RPN"
    background, foreground = settings[f"{section}.IOU_THRESHOLDS"]
    values = {
        "MODEL.ANCHOR_CONVENTION": "detectron2",
        f"{section}.BG_IOU_THRESHOLD": background,
        f"{section}.FG_IOU_THRESHOLD": foreground,
    }
    if not settings.one_stage:
        values["MODEL.RPN.FPN_POST_NMS_PER_BATCH"] = False
    ratios = settings["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"]
    if all(row == ratios[0] for row in ratios):
        values[f"{section}.ASPECT_RATIOS"] = ratios[0]
    else:
        settings.note("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "the ratios are the same on every feature map")
    sizes = settings["MODEL.ANCHOR_GENERATOR.SIZES"]
    found = _octaves(sizes) if settings.one_stage else _one_each(sizes, settings.neck)
    if found is None:
        settings.note(
            "MODEL.ANCHOR_GENERATOR.SIZES",
            "sizes within an octave, the same on every feature map"
            if settings.one_stage
            else "one size on each feature map of a pyramid",
        )
        return values
    return values | {f"{section}.{name}": value for name, value in found.items()}


def _one_each(sizes: list[list[float]], neck: str) -> Values | None:
    if neck in ("C4", "C5"):
        return {"ANCHOR_SIZES": sizes[0]} if len(sizes) == 1 else None
    single = all(len(row) == 1 for row in sizes) and len(sizes) > 1
    return {"ANCHOR_SIZES": [row[0] for row in sizes]} if single else None


def _octaves(sizes: list[list[float]]) -> Values | None:
    count = len(sizes[0])
    expected = [[row[0] * 2 ** (i / count) for i in range(count)] for row in sizes]
    alike = all(
        len(row) == count and all(abs(a / b - 1) < 1e-3 for a, b in zip(row, wanted, strict=True))
        for row, wanted in zip(sizes, expected, strict=True)
    )
    if not alike or len(sizes) == 1:
        return None
    return {"ANCHOR_SIZES": [round(row[0]) for row in sizes], "SCALES_PER_OCTAVE": count, "OCTAVE": 2.0}


def box_head(settings: Settings) -> Values:
    """Extractor and predictor of the box head, and which proposals are foreground."""
    if not settings.two_stage:
        return {}
    (threshold,) = settings["MODEL.ROI_HEADS.IOU_THRESHOLDS"]
    kind = settings.choose("MODEL.ROI_HEADS.NAME", {"Res5ROIHeads": "conv5", "StandardROIHeads": "layers"})
    head = "MODEL.ROI_BOX_HEAD"
    values = {
        "MODEL.ROI_HEADS.FG_IOU_THRESHOLD": threshold,
        "MODEL.ROI_HEADS.BG_IOU_THRESHOLD": threshold,
        f"{head}.FEATURE_EXTRACTOR": "ResNet50Conv5ROIFeatureExtractor",
        f"{head}.PREDICTOR": "FastRCNNPredictor",
    }
    if kind == "conv5":
        return values
    layers = settings[f"{head}.NUM_CONV"], settings[f"{head}.NUM_FC"]
    values[f"{head}.PREDICTOR"] = "FPNPredictor"
    if layers == (0, 2):
        values[f"{head}.FEATURE_EXTRACTOR"] = "FPN2MLPFeatureExtractor"
    elif layers[0] > 0 and layers[1] == 1:
        values[f"{head}.FEATURE_EXTRACTOR"] = "FPNXconv1fcFeatureExtractor"
        values[f"{head}.NUM_STACKED_CONVS"] = layers[0]
        values[f"{head}.USE_GN"] = _group_norm(settings, head)
    else:
        raise ConfigError(
            f"{head}.NUM_CONV = {layers[0]} with NUM_FC = {layers[1]} has no equivalent; "
            "there are 0 with 2, and 1 or more with 1"
        )
    if settings[f"{head}.NAME"] not in ("", "FastRCNNConvFCHead"):
        settings.note(f"{head}.NAME", "here FastRCNNConvFCHead")
    return values


def mask_head(settings: Settings) -> Values:
    """The mask head; that of a C4 detector reads the box head's features."""
    head = "MODEL.ROI_MASK_HEAD"
    if not settings.two_stage or not settings["MODEL.MASK_ON"]:
        return {}
    if settings[f"{head}.NAME"] != "MaskRCNNConvUpsampleHead":
        settings.note(f"{head}.NAME", "here MaskRCNNConvUpsampleHead")
    width, count = settings[f"{head}.CONV_DIM"], settings[f"{head}.NUM_CONV"]
    if settings["MODEL.ROI_HEADS.NAME"] == "Res5ROIHeads":
        if count:
            settings.note(f"{head}.NUM_CONV", "no convolutions between the shared features and the predictor")
        return {
            f"{head}.CONV_LAYERS": [width],
            f"{head}.RESOLUTION": settings["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"],
        }
    return {
        f"{head}.FEATURE_EXTRACTOR": "MaskRCNNFPNFeatureExtractor",
        f"{head}.SHARE_BOX_FEATURE_EXTRACTOR": False,
        f"{head}.CONV_LAYERS": [width] * count,
        f"{head}.RESOLUTION": 2 * settings[f"{head}.POOLER_RESOLUTION"],
        f"{head}.USE_GN": _group_norm(settings, head),
    }


def keypoint_head(settings: Settings) -> Values:
    """The keypoint head."""
    head = "MODEL.ROI_KEYPOINT_HEAD"
    if not settings.two_stage or not settings["MODEL.KEYPOINT_ON"]:
        return {}
    return {
        f"{head}.SHARE_BOX_FEATURE_EXTRACTOR": False,
        f"{head}.RESOLUTION": 4 * settings[f"{head}.POOLER_RESOLUTION"],
    }


def _group_norm(settings: Settings, head: str) -> bool:
    if settings[f"{head}.NORM"] not in ("", "GN"):
        settings.note(f"{head}.NORM", "group norm or none")
    return bool(settings[f"{head}.NORM"] == "GN")


def weights(settings: Settings) -> Values:
    """A weight file or its address. What Detectron folded its batch norms into has no epsilon."""
    place = settings["MODEL.WEIGHTS"]
    scheme, separator, name = place.partition("://")
    if separator and (scheme not in SCHEMES or (scheme == "catalog" and name not in URLS)):
        settings.note("MODEL.WEIGHTS", "download the file and name it in MODEL.WEIGHT")
        return {}
    folded = scheme == "catalog" and settings["MODEL.RESNETS.NORM"] == "FrozenBN"
    return {"MODEL.WEIGHT": place, **({"MODEL.FROZEN_BN.EPSILON": 0.0} if folded else {})}
