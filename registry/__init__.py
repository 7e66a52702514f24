"""Names -> things: registries, plugins and the config. Imports no torch."""

from registry import builtin as builtin
from registry.config import config_section, family_defaults, get_cfg
from registry.conv_body import ConvBody, parse_conv_body
from registry.core import REGISTRIES, Registry
from registry.errors import (
    ConfigError,
    ConvbodyError,
    DuplicateNameError,
    PluginError,
    UnknownKeyError,
    UnknownNameError,
)
from registry.load import load_cfg, lookup
from registry.registries import (
    BACKBONES,
    BODIES,
    FBNET_ARCHS,
    FBNET_PRIMITIVES,
    NECKS,
    NORMS,
    STAGE_SPECS,
    STEM_MODULES,
    TRANSFORMATION_MODULES,
)
from registry.tree import Config, source_of

__all__ = [
    "BACKBONES",
    "BODIES",
    "FBNET_ARCHS",
    "FBNET_PRIMITIVES",
    "NECKS",
    "NORMS",
    "REGISTRIES",
    "STAGE_SPECS",
    "STEM_MODULES",
    "TRANSFORMATION_MODULES",
    "Config",
    "ConfigError",
    "ConvBody",
    "ConvbodyError",
    "DuplicateNameError",
    "PluginError",
    "Registry",
    "UnknownKeyError",
    "UnknownNameError",
    "config_section",
    "family_defaults",
    "get_cfg",
    "load_cfg",
    "lookup",
    "parse_conv_body",
    "source_of",
]
