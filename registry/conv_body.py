"""What a CONV_BODY name means: ``<body>-<neck>``, a body alone, or a name registered whole."""

from __future__ import annotations

from dataclasses import dataclass

from registry.errors import UnknownNameError, nearest_phrase
from registry.plugins import load_plugin_modules
from registry.registries import BACKBONES, BODIES, NECKS

LISTING = "python tools/list_backbones.py, or python -m registry bodies"


@dataclass(frozen=True)
class ConvBody:
    """A CONV_BODY name taken apart.

    ``whole`` is set when the full name is registered in BACKBONES; otherwise ``body`` is a name of BODIES and
    ``neck`` a name of NECKS, or None for a body without neck.
    """

    name: str
    body: str
    neck: str | None
    whole: bool = False


def parse_conv_body(name: str, origin: str = "MODEL.BACKBONE.CONV_BODY") -> ConvBody:
    """Takes a CONV_BODY name apart. The longest neck name that ends it counts, so ``R-50-FPN-RETINANET`` is
    the body R-50 with the neck FPN-RETINANET; a name registered whole wins. Imports nothing but plugin
    modules, and those only when the name is unknown otherwise.

    Raises:
        UnknownNameError: no such body, neck or whole name; ``origin`` says where the name came from.
    """
    parsed = _parse(name)
    if parsed is None:
        load_plugin_modules()
        parsed = _parse(name)
    if parsed is None:
        raise _unknown(name, origin)
    return parsed


def _parse(name: str) -> ConvBody | None:
    if name in BACKBONES:
        return ConvBody(name, name, None, whole=True)
    for neck in sorted(NECKS.names(), key=len, reverse=True):
        body = name.removesuffix(f"-{neck}")
        if body != name and body in BODIES:
            return ConvBody(name, body, neck)
    return ConvBody(name, name, None) if name in BODIES else None


def _unknown(name: str, origin: str) -> UnknownNameError:
    body, _, rest = next(
        (
            (body, "-", name[len(body) + 1 :])
            for body in sorted(BODIES.names(), key=len, reverse=True)
            if name.startswith(f"{body}-")
        ),
        (name, "", ""),
    )
    if rest:
        return UnknownNameError(
            f"body {body!r} has no neck called {rest!r} ({origin}); necks: {', '.join(NECKS.names())}"
        )
    known = BACKBONES.names() + [f"{body}-{neck}" for body in BODIES.names() for neck in NECKS.names()]
    return UnknownNameError(
        f"no backbone is called {name!r} ({origin}){nearest_phrase(name, known)}; list all: {LISTING}"
    )
