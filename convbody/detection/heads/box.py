"""Box heads: what is computed from each proposal's features, and the two outputs read from that."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import faster_rcnn

from backbones.layers.norm import norm_from_cfg
from convbody.training.class_rows import ClassRows, layer_rows
from registry import Config


def fully_connected(cfg: Config, inputs: int, outputs: int, group_norm: bool = False) -> nn.Module:
    """A linear layer, Kaiming uniform with a = 1; ``group_norm`` takes the place of its bias."""
    linear = nn.Linear(inputs, outputs, bias=not group_norm)
    nn.init.kaiming_uniform_(linear.weight, a=1)
    if group_norm:
        return nn.Sequential(linear, norm_from_cfg(cfg, "GN")(outputs))
    nn.init.zeros_(linear.bias)
    return linear


class FPN2MLPFeatureExtractor(nn.Module):
    """Two fully connected layers (Lin et al. 2017, arXiv 1612.03144, section 4.2): (N, C, S, S) to (N, D)."""

    out_resolution = None  # a vector, no map

    def __init__(self, cfg: Config, in_channels: int, resolution: int) -> None:
        super().__init__()
        node = cfg.MODEL.ROI_BOX_HEAD
        self.out_channels: int = node.MLP_HEAD_DIM
        self.fc6 = fully_connected(cfg, in_channels * resolution**2, node.MLP_HEAD_DIM, node.USE_GN)
        self.fc7 = fully_connected(cfg, node.MLP_HEAD_DIM, node.MLP_HEAD_DIM, node.USE_GN)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, MLP_HEAD_DIM) of cut-outs."""
        return F.relu(self.fc7(F.relu(self.fc6(x.flatten(start_dim=1)))))


class FPNXconv1fcFeatureExtractor(nn.Module):
    """3x3 convolutions and a fully connected layer (Wu and He 2018, section 4.2): (N, C, S, S) to (N, D)."""

    out_resolution = None  # a vector, no map

    def __init__(self, cfg: Config, in_channels: int, resolution: int) -> None:
        super().__init__()
        node = cfg.MODEL.ROI_BOX_HEAD
        self.out_channels: int = node.MLP_HEAD_DIM
        width, dilation = node.CONV_HEAD_DIM, node.DILATION
        layers: list[nn.Module] = []
        for _ in range(node.NUM_STACKED_CONVS):
            conv = nn.Conv2d(in_channels, width, 3, padding=dilation, dilation=dilation, bias=not node.USE_GN)
            nn.init.normal_(conv.weight, std=0.01)
            layers.append(conv)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            else:
                layers.append(norm_from_cfg(cfg, "GN")(width))
            layers.append(nn.ReLU())
            in_channels = width
        self.xconvs = nn.Sequential(*layers)
        self.fc6 = fully_connected(cfg, in_channels * resolution**2, node.MLP_HEAD_DIM)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, MLP_HEAD_DIM) of cut-outs."""
        return F.relu(self.fc6(self.xconvs(x).flatten(start_dim=1)))


class BoxPredictor(faster_rcnn.FastRCNNPredictor):
    """Class logits (N, NUM_CLASSES) and box deltas, four per class, or eight in all when class-agnostic."""

    def __init__(self, cfg: Config, in_channels: int) -> None:
        classes = cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES
        super().__init__(in_channels, classes)
        self.class_rows = layer_rows("cls_score", ClassRows(background=True))
        if cfg.MODEL.CLS_AGNOSTIC_BBOX_REG:
            self.bbox_pred = nn.Linear(in_channels, 2 * 4)  # of the background, unused, and of the object
        else:
            self.class_rows |= layer_rows("bbox_pred", ClassRows(width=4, background=True))
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both outputs of features (N, D), or of maps (N, D, S, S), which are averaged."""
        logits, deltas = super().forward(x.mean(dim=(2, 3)) if x.dim() == 4 else x)
        return logits, deltas
