"""Mask heads (He et al. 2017, arXiv 1703.06870, figure 4)."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.detection import mask_rcnn

from backbones.layers.norm import norm_from_cfg
from convbody.training.class_rows import ClassRows, layer_rows
from registry import Config, ConfigError


class MaskRCNNFPNFeatureExtractor(mask_rcnn.MaskRCNNHeads):
    """3x3 convolutions of widths CONV_LAYERS: (N, C, S, S) to (N, D, S, S)."""

    def __init__(self, cfg: Config, in_channels: int, resolution: int) -> None:
        node = cfg.MODEL.ROI_MASK_HEAD
        norm = norm_from_cfg(cfg, "GN") if node.USE_GN else None
        super().__init__(in_channels, node.CONV_LAYERS, node.DILATION, norm)
        self.out_channels: int = node.CONV_LAYERS[-1] if node.CONV_LAYERS else in_channels
        self.out_resolution = resolution


class MaskRCNNC4Predictor(mask_rcnn.MaskRCNNPredictor):
    """A transposed convolution of stride 2, then a mask per class: (N, NUM_CLASSES, 2S, 2S)."""

    upscale = 2

    def __init__(self, cfg: Config, in_channels: int) -> None:
        if not cfg.MODEL.ROI_MASK_HEAD.CONV_LAYERS:
            raise ConfigError(
                "this predictor is as wide as the last of CONV_LAYERS; give one or more",
                "MODEL.ROI_MASK_HEAD.CONV_LAYERS",
                cfg,
            )
        hidden, classes = cfg.MODEL.ROI_MASK_HEAD.CONV_LAYERS[-1], cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES
        super().__init__(in_channels, hidden, classes)
        self.class_rows = layer_rows("mask_fcn_logits", ClassRows(background=True))
        nn.init.zeros_(self.conv5_mask.bias)
        nn.init.zeros_(self.mask_fcn_logits.bias)


class MaskRCNNConv1x1Predictor(nn.Module):
    """A mask per class by one 1x1 convolution: (N, NUM_CLASSES, S, S)."""

    upscale = 1

    def __init__(self, cfg: Config, in_channels: int) -> None:
        super().__init__()
        conv = nn.Conv2d(in_channels, cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES, 1)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        self.mask_fcn_logits = conv
        self.class_rows = layer_rows("mask_fcn_logits", ClassRows(background=True))

    def forward(self, x: Tensor) -> Tensor:
        """Mask logits."""
        logits: Tensor = self.mask_fcn_logits(x)
        return logits
