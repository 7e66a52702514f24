"""timm's files: some extractors join the first two parts of a name, ``stages.0`` to ``stages_0``."""

RENAMES = ((r"^(\w+)\.(\d+)\.", r"\1_\2."),)
