"""Names of detectron2: ResNets as a backbone, under an FPN (``bottom_up``) or alone as in ImageNet files."""

from __future__ import annotations

_STAGES = (1, 2, 3, 4)

RENAMES = (
    (r"^(?:backbone\.)?(?:bottom_up\.)?(?=(?:stem|res[2-5])\.)", "body."),
    *((rf"^body\.res{stage + 1}\.", f"body.layer{stage}.") for stage in _STAGES),
    (r"^body\.(.+)\.shortcut\.norm\.", r"body.\1.downsample.1."),
    (r"^body\.(.+)\.shortcut\.", r"body.\1.downsample.0."),
    (r"^body\.(.+)\.conv([123])\.norm\.", r"body.\1.bn\2."),
    *((rf"^(?:backbone\.)?fpn_lateral{stage + 1}\.", f"fpn.fpn_inner{stage}.") for stage in _STAGES),
    *((rf"^(?:backbone\.)?fpn_output{stage + 1}\.", f"fpn.fpn_layer{stage}.") for stage in _STAGES),
    (r"^(fpn\.fpn_(?:inner|layer)\d)\.norm\.", r"\1.1."),
    (r"^(?:backbone\.)?top_block\.(p[67])\.", r"fpn.top_blocks.\1."),
)
