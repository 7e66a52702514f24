"""torchvision's ResNet files: our names but for the stem."""

RENAMES = ((r"^((?:backbone\.)?(?:body\.)?)(conv1|bn1)\.", r"\1stem.\2."),)
