"""What can be named in CONV_BODY. Listing names builds nothing and loads no torch."""

from __future__ import annotations

from fnmatch import fnmatchcase

from registry import BACKBONES, BODIES, NECKS, parse_conv_body


def backbone_names(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern: those registered whole, every body, every body with every neck.

    ``timm/*`` stands for all timm models; a pattern that begins with ``timm/`` lists them, when timm is
    installed. A name that holds no wildcard is given back as it is.

    Raises:
        UnknownNameError: nothing matches; says the nearest names.
    """
    if not set(pattern) & set("*?["):
        parse_conv_body(pattern)
        return [pattern]
    bodies = BODIES.names()
    if pattern.startswith("timm/"):
        bodies = BODIES.behind("timm/*") or ["timm/*"]
    composed = [name for body in bodies for name in (body, *(f"{body}-{neck}" for neck in NECKS.names()))]
    names = [name for name in BACKBONES.names() + composed if fnmatchcase(name, pattern)]
    if not names:
        parse_conv_body(pattern)
    return names


def defined_in(name: str) -> str:
    """``file:line`` of the body, or of the backbone registered whole, that ``name`` asks for."""
    parsed = parse_conv_body(name)
    return str((BACKBONES if parsed.whole else BODIES).find(parsed.body))
