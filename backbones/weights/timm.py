"""timm's files: some extractors join the first two parts of a name, ``stages.0`` to ``stages_0``."""

RENAMES = ((r"^((?:backbone\.)?(?:body\.)?)(\w+)\.(\d+)\.", r"\1\2_\3."),)
