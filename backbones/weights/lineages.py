"""All lineages whose files are read."""

from __future__ import annotations

from backbones.weights import caffe2, detectron2, fbnet, maskrcnn, timm, torchvision, tresnet
from backbones.weights.rules import Lineage, Rule

#: Our own names, in files of a detector, of a backbone or of a body alone.
OURS = Lineage(
    name="convbody",
    marks=("{rest}",),
    rules=(Rule("{rest}", "{rest}"),),
    prefixes=("", "backbone.", "backbone.body."),
)

#: The first of those that read a file equally well counts.
LINEAGES: tuple[Lineage, ...] = (
    OURS,
    maskrcnn.LINEAGE,
    caffe2.LINEAGE,
    detectron2.LINEAGE,
    torchvision.LINEAGE,
    tresnet.OFFICIAL,
    tresnet.TIMM,
    fbnet.MOBILENET_V2,
    fbnet.FBNET_C,
    timm.LINEAGE,
)
