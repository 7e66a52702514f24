"""torchvision's ResNet files: our names but for the stem."""

RENAMES = ((r"^(conv1|bn1)\.", r"stem.\1."),)
