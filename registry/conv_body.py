"""What a CONV_BODY name means: ``<body>-<neck>``, a body alone, or a name registered whole."""

from __future__ import annotations

import re
from dataclasses import dataclass

from registry.errors import UnknownNameError, nearest
from registry.plugins import load_plugin_modules
from registry.registries import BACKBONES, BODIES, NECKS

LISTING = "python tools/list_backbones.py, or python -m registry bodies"
_OWN = "one of your own comes from a file or module in PLUGINS"
_PROPOSED = 4  # names in an error


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
    body = max((body for body in BODIES.names() if name.startswith(f"{body}-")), key=len, default=None)
    if body is not None:
        return UnknownNameError(
            f"body {body!r} has no neck called {name[len(body) + 1 :]!r} ({origin}); necks: "
            f"{', '.join(NECKS.names())}; {_OWN}"
        )
    close = _nearest(name)
    proposed = f"; nearest: {', '.join(close)}" if close else ""
    return UnknownNameError(
        f"no backbone is called {name!r} ({origin}){proposed}; list all: {LISTING}; {_OWN}"
    )


def _nearest(name: str) -> list[str]:
    """Names that ``name`` may have meant: the same under another code base's name, then those spelt alike."""
    bodies = BODIES.names()
    ours = BACKBONES.names() + [
        f"{body}-{neck}" for body in bodies if "*" not in body for neck in NECKS.names()
    ]
    behind = {f"{each}-FPN": each.rpartition("/")[2] for body in bodies for each in BODIES.behind(body)}
    model = name.removesuffix("-FPN").rpartition("/")[2]
    squeezed = re.sub(r"[\W_]", "", model).lower()
    same = [each for each in ours if each.endswith("-FPN") and _abbreviated(each) == _abbreviated(model)]
    same += [each for each, own_name in behind.items() if own_name.replace("_", "") == squeezed]
    return list(dict.fromkeys([*same, *nearest(name, [*ours, *behind])]))[:_PROPOSED]


def _abbreviated(name: str) -> tuple[str, ...]:
    """The first letter and the numbers: of R-50-FPN, resnet50 and ResNet-50 alike."""
    return (name[:1].upper(), *re.findall(r"\d+", name))
