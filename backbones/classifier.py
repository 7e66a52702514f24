"""Any backbone as a classifier: global average pooling and a linear layer on its coarsest feature."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers.squeeze_excite import global_average_pool
from backbones.spec import Backbone


class Classifier(nn.Module):
    """Images (N, C, H, W) -> logits (N, num_classes), of whatever C the body takes.

    The body's weights lie under ``backbone``, as in a detector, the linear layer's under ``fc``.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(backbone.out_channels, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits; with ``labels``, (N,) int64, the mean cross-entropy instead."""
        features: list[Tensor] = self.backbone(images)
        logits: Tensor = self.fc(global_average_pool(features[-1]))
        return logits if labels is None else F.cross_entropy(logits, labels)

    def predict(self, images: Tensor) -> Tensor:
        """Probabilities (N, num_classes)."""
        return self(images).softmax(dim=1)
